"""Limits: what goes beyond them fails, and says why."""

import asyncio

from toolfleet.backends.conformance.core import Rig, check

#: The colon keeps bash from becoming the `sleep`, which would give back what it holds.
_PIECE = 'x=$(head -c 9000000 /dev/zero | tr "\\0" x); sleep 90; :'
#: Ten processes that are small alone and too large together; ends as the first of them that is killed. Not by
#: `wait -n`, which does not see who has ended before it is reached.
CROWD = (
    f"rm -f /tmp/ended; for i in 1 2 3 4 5 6 7 8 9 10; do {{ bash -c '{_PIECE}' || echo $? >>/tmp/ended; }} & done; "
    "until grep -sx 137 /tmp/ended; do sleep 0.1; done; exit 137"
)
#: One process that is too large alone.
HOG = "x=0123456789; while :; do x=$x$x; done"


@check
async def the_memory_limit_holds_and_is_told(rig: Rig) -> None:
    """For one process and for many; the runner lives, and the next command is not blamed."""
    in_memory = rig.profile.storage == "memory"  # and then what files do not use is there for processes
    box = await (rig.box(memory_mib=64, disk_mib=8) if in_memory else rig.box(memory_mib=64))
    hog = await box.sh(HOG, timeout=30)
    if b"cannot allocate" in hog.stderr:  # a limit on each process was faster
        hog = await box.sh(CROWD, timeout=60)
    assert (hog.exit_code, hog.error) == (137, "Killed for memory: the sandbox may use 64 MiB")
    killed = await box.sh("kill -9 $$")
    assert (killed.exit_code, killed.error) == (137, None)
    assert (await box.sh(CROWD, timeout=60)).exit_code == 137
    assert await box.text("echo on") == "on"


@check
async def the_disk_limit_holds(rig: Rig) -> None:
    """No place of the sandbox takes more than it; a file operation says so in words, and leaves nothing."""
    box = await rig.box(disk_mib=16)
    for path in ("/tmp/x", "/dev/shm/x"):
        outcome = await box.sh(f"head -c 100M /dev/zero > {path}; stat -c %s {path}")
        assert b"No space left on device" in outcome.stderr, path
        assert 0 < int(outcome.stdout) <= 16 * 2**20, path
        written = await box.write(f"{path}y", b"x" * 17_000_000)
        assert (written.exit_code, written.error) == (126, "No space left: the sandbox may write 16 MiB"), path
        await box.text(f"rm {path}")
    assert await box.text("ls -A /tmp /dev/shm | grep -v : | xargs") == ""
    assert (await box.write("/tmp/y", b"x" * 12_000_000)).error is None


@check
async def the_number_of_files_is_limited(rig: Rig) -> None:
    """Empty files cost kernel memory too."""
    box = await rig.box(disk_mib=8)
    outcome = await box.sh("mkdir /tmp/d; cd /tmp/d; seq 1 20000 | xargs touch; ls | wc -l", timeout=60)
    assert int(outcome.stdout) < 3000


@check
async def at_the_limit_of_processes_a_command_is_refused_in_words(rig: Rig) -> None:
    """The runner goes on, and so do commands once there is room."""
    box = await rig.box(pids=8)
    sleepers = [asyncio.create_task(box.sh("exec sleep 7001", 60, f"sleep-{n}")) for n in range(8)]

    async def full() -> bool:
        return {await box.sandbox.query(f"sleep-{n}") for n in range(8)} == {"running"}

    await box.eventually(full)
    outcome = await box.sh("echo hi")
    assert outcome.exit_code == 126
    assert "may have 8 processes" in (outcome.error or "")
    for number in range(8):
        assert await box.sandbox.cancel(f"sleep-{number}")
    assert {outcome.exit_code for outcome in await asyncio.gather(*sleepers)} == {130}
    assert await box.text("echo hi") == "hi"


@check
async def file_operations_have_a_reserve_of_processes(rig: Rig) -> None:
    """They work where commands find no room."""
    box = await rig.box(pids=8)
    filling = asyncio.create_task(box.sh("for i in $(seq 20); do sleep 7003 & done 2>/dev/null; wait", 60, "full"))

    async def full() -> bool:
        return (await box.sh(":")).exit_code == 126

    await box.eventually(full)
    assert (await box.write("/tmp/f", b"x")).error is None
    await box.sandbox.cancel("full")
    await filling


@check
async def a_fork_bomb_is_held_and_ended(rig: Rig) -> None:
    """The runner answers while it rages, ends it at its deadline, and the sandbox works again."""
    box = await rig.box(pids=64)
    line = "bomb() { bomb | bomb & }; bomb; while :; do :; done; : mark-4004"
    raging = asyncio.create_task(box.sh(line, 2.0, "bomb"))
    await box.eventually(lambda: box.runs("bomb"))
    while await box.runs("bomb"):
        await box.sandbox.ping(60)
    assert (await raging).exit_code == 124
    assert await box.alive("mark-4004") == []
