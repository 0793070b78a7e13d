"""What runs in the background does its worst; the sandbox, and everybody else in it, goes on."""

import asyncio
from typing import TYPE_CHECKING

from toolfleet.backends.conformance.background import act, spawn, until_printed

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box


async def test_a_fork_storm_in_the_background_is_held_and_killed(box: "Box") -> None:
    """It takes all processes there are, and none is left of it."""
    storm = await spawn(box, "echo up; f() { f | f & }; f; sleep 6301; : mark-6301")
    await until_printed(box, storm, b"up\n")
    written = await box.write("/tmp/beside", b"x")
    assert written.error is None
    killed = await act(box, "kill", storm)
    assert killed.detail["survivors"] == []
    assert await box.text("echo on") == "on"
    assert await box.alive("mark-6301") == []
    assert await box.sandbox.ping(60) == 0


async def test_a_hundred_megabytes_in_the_background_cost_no_memory(box: "Box") -> None:
    """49: the latest bytes are kept, and every byte is counted."""
    process = await spawn(box, "head -c 100000000 /dev/zero; echo end")
    ended = await act(box, "wait", process, 60, seconds=50)
    assert (ended.detail["status"], ended.detail["log_end"]) == ("exited", 100_000_004)
    assert ended.stdout.endswith(b"\0end\n")
    resident = int((await box.text("cat /proc/$PPID/statm")).split()[1]) * 4096
    assert resident < 40_000_000


async def test_of_two_hundred_processes_those_that_fit_run(box: "Box") -> None:
    """All at once; the others are refused in words, and nothing is left when they are killed."""
    requests = [box.request("spawn", command="exec sleep 6302") for _ in range(200)]
    outcomes = await asyncio.gather(*map(box.sandbox.run, requests))
    running = [str(o.detail["process"]) for o in outcomes if o.error is None]
    assert len(running) == len(set(running)) == 64
    assert {o.exit_code for o in outcomes if o.error is not None} == {126}
    killed = await asyncio.gather(*(act(box, "kill", process) for process in running))
    assert {k.detail["exit_code"] for k in killed} == {143}
    assert await box.alive("sleep 6302") == []
    descriptors = await box.text("ls /proc/self/fd | wc -l")
    assert descriptors == "4"


async def test_short_lived_processes_leave_nothing_behind(box: "Box") -> None:
    """More of them than are tracked: the first ones make room, with their descriptors."""
    for _ in range(200):
        process = await spawn(box, "true")
        await act(box, "wait", process, seconds=15)
    assert len((await act(box, "list")).detail["processes"]) == 64
    assert await box.sandbox.ping(60) == 0


async def test_a_flood_on_a_terminal_takes_its_input_along(box: "Box") -> None:
    """Who floods and never reads does not hold the one who writes beyond his time."""
    process = await spawn(box, "stty raw -echo; exec yes", pty=True)
    await until_printed(box, process, b"y\ny\n")
    outcome = await act(box, "write", process, 0.5, data="x" * 200_000)
    assert not outcome.detail["complete"]
    assert (await act(box, "kill", process)).detail["survivors"] == []


async def test_a_process_that_is_its_own_killer_is_seen_to_end(box: "Box") -> None:
    """However it ends: the exit code is the one of its first process."""
    for command, code in (("kill -9 $$", 137), ("kill -SEGV $$", 139), ("exec /nosuch", 127), ("exit 300", 44)):
        process = await spawn(box, command)
        assert (await act(box, "wait", process, seconds=15)).detail["exit_code"] == code


async def test_a_daemon_of_a_process_that_has_ended_can_still_be_killed(box: "Box") -> None:
    """And a stranger who has its number by then is spared."""
    process = await spawn(box, "setsid sleep 6303 & setsid sleep 6303 & exit 5")
    assert (await act(box, "wait", process, seconds=15)).detail["exit_code"] == 5
    assert len(await box.alive("sleep 6303")) == 2
    killed = await act(box, "kill", process)
    assert (killed.detail["already_exited"], killed.detail["survivors"]) == (True, [])
    assert await box.alive("sleep 6303") == []
