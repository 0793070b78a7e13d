"""Background processes: started by one call, looked at and ended by others."""

import asyncio
from typing import Any

from toolfleet.backends.base import Outcome
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.conformance.core import Rig, check


async def spawn(box: Box, command: str, **args: Any) -> str:
    """Start a background process; returns its id."""
    outcome = await box.sandbox.run(box.request("spawn", command=command, **args))
    assert (outcome.exit_code, outcome.error) == (0, None), outcome
    return str(outcome.detail["process"])


async def act(box: Box, action: str, process: str | None = None, timeout: float = 20.0, **args: Any) -> Outcome:
    """Do something with a background process."""
    given = args if process is None else {"process": process, **args}
    return await box.sandbox.run(box.request("process", timeout, action=action, **given))


async def until_printed(box: Box, process: str, text: bytes) -> None:
    """Wait until a process has printed something."""

    async def printed() -> bool:
        return text in (await act(box, "log", process)).stdout

    await box.eventually(printed)


@check
async def a_background_process_outlives_its_call_and_its_end_is_told(rig: Rig) -> None:
    """Its start is answered at once; `wait` is woken by its end, and knows its real exit code and both streams."""
    box = await rig.box()
    command = "echo out; echo err >&2; until [ -e /tmp/go ]; do sleep 0.01; done; exit 7"
    process = await spawn(box, command, env={"A": "b"}, cwd="/tmp")
    await until_printed(box, process, b"err\n")
    running = (await act(box, "poll", process)).detail
    assert (running["status"], running["command"], running["cwd"]) == ("running", command, "/tmp")
    assert "exit_code" not in running
    waiting = asyncio.create_task(act(box, "wait", process, 600, seconds=590))
    await box.text("touch /tmp/go")
    ended = await waiting
    assert (ended.detail["status"], ended.detail["exit_code"]) == ("exited", 7)
    assert ended.stdout == b"out\nerr\n"
    assert (await act(box, "wait", process, 600, seconds=590)).detail["exit_code"] == 7
    listed = (await act(box, "list")).detail["processes"]
    assert [(p["process"], p["exit_code"], p["preview"]) for p in listed] == [(process, 7, "out\nerr\n")]


@check
async def a_wait_ends_with_its_time_and_the_process_goes_on(rig: Rig) -> None:
    """Which is no error, and no matter of the call's own deadline."""
    box = await rig.box()
    process = await spawn(box, "sleep 5101")
    for timeout, seconds in ((20.0, 0.1), (0.1, 50)):
        outcome = await act(box, "wait", process, timeout, seconds=seconds)
        assert (outcome.exit_code, outcome.detail["status"]) == (0, "running")
    assert await box.alive("sleep 5101") != []


@check
async def a_start_that_is_sent_again_starts_nothing(rig: Rig) -> None:
    """The id of the process follows from that of the call."""
    box = await rig.box()
    request = box.request("spawn", command="echo once >> /tmp/log; sleep 5102")
    first, second = await asyncio.gather(box.sandbox.run(request), box.sandbox.run(request))
    assert first.detail["process"] == second.detail["process"]
    assert str(first.detail["process"]).startswith("proc_")
    await box.eventually(lambda: _is_there(box, "/tmp/log"))
    assert (await box.read("/tmp/log")).stdout == b"once\n"
    assert (await act(box, "list")).detail["processes"][0]["pid"] == first.detail["pid"]


async def _is_there(box: Box, path: str) -> bool:
    return (await box.read(path)).stdout != b""


@check
async def a_process_is_found_by_the_beginning_of_its_id(rig: Rig) -> None:
    """Four digits will do; what is not there is said to be so."""
    box = await rig.box()
    process = await spawn(box, "true")
    digits = process.removeprefix("proc_")
    for wanted in (process, process[:9], digits, digits[:4]):
        assert (await act(box, "poll", wanted)).detail["process"] == process
    for wanted in (digits[:3], "proc_", "proc_000000000000", ""):
        outcome = await act(box, "poll", wanted)
        assert outcome.exit_code == 1
        assert outcome.error == f"No process with ID {wanted}"
    assert (await act(box, "dance", process)).exit_code == 126


@check
async def a_log_is_read_by_offset(rig: Rig) -> None:
    """Each byte has its place for ever; of a flood the last 200,000 bytes are kept, and the others counted."""
    box = await rig.box()
    process = await spawn(box, "seq 1000; read x; seq 1000000; echo end")
    await until_printed(box, process, b"1000\n")
    seen, offset = b"", 0
    while offset < 3893:
        part = await act(box, "log", process, offset=offset, limit=1000)
        assert part.detail["offset"] == offset
        seen, offset = seen + part.stdout, part.detail["next_offset"]
    assert seen == "".join(f"{n}\n" for n in range(1, 1001)).encode()
    await act(box, "write", process, data="\n")
    await act(box, "wait", process, 60, seconds=50)
    everything = seen + "".join(f"{n}\n" for n in range(1, 1_000_001)).encode() + b"end\n"
    rest = await act(box, "log", process, offset=offset)
    assert (rest.detail["log_end"], rest.detail["log_start"]) == (len(everything), len(everything) - 200_000)
    assert rest.detail["offset"] == rest.detail["log_start"]
    assert rest.stdout == everything[-200_000:]


@check
async def a_process_is_written_to_until_its_input_ends(rig: Rig) -> None:
    """Through a pipe, in order, however slowly it reads; what nobody takes is not waited for beyond the deadline."""
    box = await rig.box()
    process = await spawn(box, "sha256sum; echo $?")
    text = "".join(f"line {n} é\n" for n in range(50_000))
    for start in range(0, len(text), 200_000):
        part = text[start : start + 200_000]
        outcome = await act(box, "write", process, data=part)
        assert (outcome.detail["written"], outcome.detail["complete"]) == (len(part.encode()), True)
    await act(box, "write", process, data="", eof=True)
    ended = await act(box, "wait", process, seconds=15)
    await box.write("/tmp/same", text.encode())
    assert ended.stdout.split()[0].decode() == (await box.text("sha256sum < /tmp/same")).split()[0]
    late = await act(box, "write", process, data="x")
    assert (late.detail["status"], late.detail["written"]) == ("exited", 0)
    deaf = await spawn(box, "exec sleep 5103")
    outcome = await act(box, "write", deaf, 0.3, data="x" * 1_000_000)
    assert 0 < outcome.detail["written"] < 1_000_000
    assert not outcome.detail["complete"]


@check
async def a_process_can_have_a_terminal(rig: Rig) -> None:
    """It is its controlling terminal, of the size that was asked for; control characters are typed like others."""
    box = await rig.box()
    process = await spawn(box, "tty; stty size; cat; echo $?; sleep 5104", pty=True, rows=31, columns=101)
    await until_printed(box, process, b"31 101")
    assert (await act(box, "poll", process)).stdout.startswith(b"/dev/pts/")
    await act(box, "write", process, data="hello\n", eof=True)
    await until_printed(box, process, b"hello\r\nhello\r\n0\r\n")
    await act(box, "write", process, data="\x03")
    ended = await act(box, "wait", process, seconds=15)
    assert (ended.detail["status"], ended.detail["exit_code"]) == ("exited", 128 + 2)
    shell = await spawn(box, "exec env PS1='ready> ' bash --norc -i", pty=True, idle=True)
    await until_printed(box, shell, b"ready> ")
    await act(box, "write", shell, data="sleep 5104 &\nsleep 5104\n")
    await box.eventually(lambda: _runs_twice(box, "sleep 5104"))
    await act(box, "write", shell, data="\x1a")
    await until_printed(box, shell, b"Stopped")
    assert (await act(box, "kill", shell)).detail["survivors"] == []
    assert await box.alive("sleep 5104") == []


async def _runs_twice(box: Box, mark: str) -> bool:
    return [line.partition(" ")[2] for line in await box.alive(mark)].count(mark) == 2


@check
async def a_command_can_have_a_terminal_without_input(rig: Rig) -> None:
    """Both of its streams are the terminal; reading from it finds the end."""
    box = await rig.box()
    outcome = await box.sh("test -t 0 && test -t 1 && test -t 2; echo $?; cat; echo err >&2; exit 3", pty=True)
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (b"0\r\nerr\r\n", b"", 3)
    outcome = await box.sh("echo begun; sleep 5110", 0.5, pty=True)
    assert (outcome.stdout, outcome.exit_code) == (b"begun\r\n", 124)


@check
async def a_shell_on_a_terminal_is_told_when_it_rests(rig: Rig) -> None:
    """After the command that it was given, not before; a log is read on from where the last look stopped."""
    box = await rig.box()
    shell = await spawn(box, "exec env PS1='ready> ' bash --norc -i", pty=True, idle=True)
    assert (await act(box, "settle", shell, seconds=15)).detail["settled"]
    first = await act(box, "log", shell, resume=True)
    assert first.stdout.endswith(b"ready> ")
    await act(box, "write", shell, data="sleep 1; echo do''ne\n")
    assert (await act(box, "settle", shell, seconds=15)).detail["settled"]
    second = await act(box, "log", shell, resume=True)
    assert second.detail["offset"] == first.detail["next_offset"]
    assert b"done\r\n" in second.stdout
    offsets = [offset for offset, _ in second.detail["moments"]]
    assert offsets[0] == second.detail["offset"]
    assert offsets == sorted(offsets)
    await act(box, "write", shell, data="sleep 5111\n")
    assert not (await act(box, "settle", shell, seconds=0.5)).detail["settled"]


@check
async def a_kill_ends_the_whole_tree_of_a_background_process(rig: Rig) -> None:
    """TERM, then KILL, until nothing is left of it; other processes and calls are spared."""
    box = await rig.box()
    other = await spawn(box, "setsid sleep 5105.5 & wait")
    stubborn = "trap '' TERM; sleep 6105.5 & setsid bash -c 'trap \"\" TERM; sleep 6105.5 & wait; :' & wait; wait"
    process = await spawn(box, f"{stubborn}; sleep 6105.5")
    await box.eventually(lambda: _runs_twice(box, "sleep 6105.5"))
    killed = await act(box, "kill", process)
    assert (killed.detail["survivors"], killed.detail["already_exited"]) == ([], False)
    assert (killed.detail["status"], killed.detail["exit_code"]) == ("exited", 137)
    assert await box.alive("sleep 6105.5") == []
    assert await box.alive("sleep 5105.5") != []
    again = await act(box, "kill", process)
    assert (again.detail["already_exited"], again.detail["exit_code"]) == (True, 137)
    polite = await spawn(box, "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done")
    await until_printed(box, polite, b"up\n")
    assert (await act(box, "kill", polite)).detail["exit_code"] == 3
    assert (await act(box, "kill", other)).detail["survivors"] == []
    assert await box.alive("sleep 5105.5") == []


@check
async def a_deadline_of_a_call_spares_background_processes(rig: Rig) -> None:
    """They are not of its tree, whoever started before whom."""
    box = await rig.box()
    process = await spawn(box, "(env -i setsid sleep 5106.5 &); sleep 5106.5")
    await box.eventually(lambda: _runs_twice(box, "sleep 5106.5"))
    assert (await box.sh("sleep 6106.5", timeout=0.3)).exit_code == 124
    assert await _runs_twice(box, "sleep 5106.5")
    assert (await act(box, "poll", process)).detail["status"] == "running"


@check
async def sixty_four_background_processes_are_tracked(rig: Rig) -> None:
    """One more is refused while all of them run; else the one that ended first makes room."""
    box = await rig.box(pids=200)
    first = await spawn(box, "read x")
    for _ in range(63):
        await spawn(box, "exec sleep 5107")
    refused = await box.sandbox.run(box.request("spawn", command="true"))
    assert (refused.exit_code, "kill one" in (refused.error or "")) == (126, True)
    await act(box, "write", first, data="\n")
    await act(box, "wait", first, seconds=15)
    await spawn(box, "exec sleep 5107")
    assert (await act(box, "poll", first)).error == f"No process with ID {first}"
    assert len((await act(box, "list")).detail["processes"]) == 64


@check
async def running_background_processes_count_and_waiting_shells_do_not(rig: Rig) -> None:
    """Who counts keeps a trajectory from being idle."""
    box = await rig.box()
    shell = await spawn(box, "exec bash --norc", pty=True, idle=True)
    await box.sandbox.run(box.request("shell", command="true"))

    async def counts(number: int) -> bool:
        return await box.sandbox.ping(60) == number

    await box.eventually(lambda: counts(0))
    process = await spawn(box, "exec sleep 5108")
    await box.eventually(lambda: counts(1))
    await act(box, "kill", process)
    await box.eventually(lambda: counts(0))
    await act(box, "write", shell, data="sleep 5108\n")
    await box.eventually(lambda: counts(2))


@check
async def background_processes_go_with_their_sandbox(rig: Rig) -> None:
    """And not with the channel through which they were started."""
    box = await rig.box()
    process = await spawn(box, "echo up; exec sleep 5109")
    await box.sandbox.detach()
    again = await rig.attached(box.sandbox.ref)
    await until_printed(again, process, b"up\n")
    assert (await act(again, "poll", process)).detail["status"] == "running"
    await again.sandbox.close()
    fresh = await rig.box()
    assert (await act(fresh, "list")).detail["processes"] == []
    assert await fresh.alive("sleep 5109") == []


@check
async def a_flood_in_the_background_delays_nobody(rig: Rig) -> None:
    """Through a pipe or a terminal; neither does it cost the runner memory."""
    box = await rig.box()
    floods = [await spawn(box, "exec yes"), await spawn(box, "exec yes", pty=True)]
    for _ in range(20):
        assert await box.text("echo on") == "on"

    async def dropped() -> bool:
        return all([(await act(box, "log", flood)).detail["log_start"] > 0 for flood in floods])

    await box.eventually(dropped)
    for flood in floods:
        assert (await act(box, "kill", flood)).detail["survivors"] == []
    resident = int((await box.text("cat /proc/$PPID/statm")).split()[1]) * 4096
    assert resident < 40_000_000
