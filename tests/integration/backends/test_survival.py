"""The runner outlives whatever its commands do."""

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from integration.backends.conftest import Box


@pytest.mark.parametrize(
    "command",
    [
        "exit 3",
        "exec true",
        "exec 0<&- 1>&- 2>&-; sleep 0.05",
        "kill -9 -1",
        "kill -9 1",
        "for s in $(seq 1 64); do kill -$s 1; done",
        "mkdir -p /w; cd /w; touch a; chmod 0 a .; chmod 1 /",
        "head -c 100000000 /dev/zero; head -c 100000000 /dev/zero >&2",
        "printf '\\0\\0\\0\\2\\0\\0\\0\\0{}'; echo '{\"rid\":1,\"outcome\":{}}'",
        "for fd in /proc/self/fd/*; do echo x >> $fd; done 2>/dev/null",
        "ulimit -n 3; ulimit -v 1000; true",
    ],
)
async def test_the_runner_survives(box: "Box", command: str) -> None:
    """Suicide, murder, closed descriptors, deleted files, floods, forged frames."""
    await box.sh(command, timeout=10)
    outcome = await box.sh("echo alive")
    assert (outcome.stdout, outcome.exit_code) == (b"alive\n", 0)


async def test_a_fork_bomb_is_held_and_ended(make: "Callable[..., Awaitable[Box]]") -> None:
    """The runner answers while it rages, ends it at its deadline, and the sandbox works again."""
    box = await make(pids=64)
    call = box.request("exec", 1.5, command="bomb() { bomb | bomb & }; bomb; while :; do :; done")
    began = time.monotonic()
    pings: list[float] = []

    async def ping() -> bool:
        before = time.monotonic()
        await box.sandbox.ping(60)
        pings.append(time.monotonic() - before)
        return time.monotonic() - began > 1.0

    raging = asyncio.create_task(box.sandbox.run(call))
    await box.eventually(ping)
    assert max(pings) < 1.0
    outcome = await raging
    assert outcome.exit_code == 124
    assert time.monotonic() - began < 8
    assert await box.commands() == []


async def test_a_sandbox_that_deletes_its_own_root_still_answers(box: "Box") -> None:
    """What cannot be deleted stays; what cannot run any more says so."""
    await box.sh("rm -rf --no-preserve-root / 2>/dev/null")
    outcome = await box.sh("echo alive")
    assert (outcome.exit_code, outcome.error) == (126, "Cannot start a command: No such file or directory")
    assert (await box.write("/lib64/x", b"x")).error is None
    assert (await box.read("/lib64/x")).stdout == b"x"
    await box.sandbox.ping(60)


async def test_at_the_limit_of_processes_a_command_is_refused_in_words(make: "Callable[..., Awaitable[Box]]") -> None:
    """And file operations still work: they have a reserve."""
    box = await make(pids=8)
    sleepers = [asyncio.create_task(box.sh("exec sleep 7001", call_id=f"sleep-{n}")) for n in range(8)]

    async def full() -> bool:
        return {await box.sandbox.query(f"sleep-{n}") for n in range(8)} == {"running"}

    await box.eventually(full)
    outcome = await box.sh("echo hi")
    assert outcome.exit_code == 126
    assert "may have 8 processes" in (outcome.error or "")
    assert (await box.read("/etc/hostname")).stdout == b"sandbox\n"
    for number in range(8):
        assert await box.sandbox.cancel(f"sleep-{number}")
    assert {outcome.exit_code for outcome in await asyncio.gather(*sleepers)} == {130}


@pytest.mark.parametrize("trailer", ["", "; true"])
async def test_commands_begin_with_every_signal_at_its_default(box: "Box", trailer: str) -> None:
    """Whatever the runner blocks or ignores for itself; nor do they inherit a descriptor or a raised limit."""
    for _ in range(3):
        status = await box.text("grep -E 'Sig(Blk|Ign)' /proc/self/status" + trailer)
        blocked, ignored = (int(line.split()[1], 16) for line in status.splitlines())
        assert blocked == 0
        assert ignored & ~(0b11 << 31) == 0  # 32 and 33 are libc's own
        assert await box.text("ls /proc/self/fd | wc -l") == "4"  # the last one is that of ls
        assert await box.text("cat /proc/$$/oom_score_adj; ulimit -Hu; ulimit -Su") == "1000\n257\n257"
        assert (await box.write("/x", b"x")).error is None
