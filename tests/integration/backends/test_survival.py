"""The runner outlives what its commands do to it as fake root."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box


@pytest.mark.parametrize(
    "command",
    [
        "kill -9 1",
        "for s in $(seq 1 64); do kill -$s 1; done",
        "mkdir -p /w; cd /w; touch a; chmod 0 a .; chmod 1 /",
    ],
)
async def test_the_runner_survives(box: "Box", command: str) -> None:
    """As PID 1, and in a root that nobody may enter but root."""
    await box.sh(command, timeout=10)
    outcome = await box.sh("echo alive")
    assert (outcome.stdout, outcome.exit_code) == (b"alive\n", 0)


async def test_a_sandbox_that_deletes_its_own_root_still_answers(box: "Box") -> None:
    """What cannot be deleted stays; what cannot run any more says so."""
    await box.sh("rm -rf --no-preserve-root / 2>/dev/null")
    outcome = await box.sh("echo alive")
    assert (outcome.exit_code, outcome.error) == (126, "Cannot start a command: No such file or directory")
    assert (await box.write("/lib64/x", b"x")).error is None
    assert (await box.read("/lib64/x")).stdout == b"x"
    await box.sandbox.ping(60)


@pytest.mark.parametrize("trailer", ["", "; true"])
async def test_commands_begin_with_every_signal_at_its_default(box: "Box", trailer: str) -> None:
    """Whatever the runner blocks or ignores for itself; nor do they inherit a descriptor or a raised limit."""
    for _ in range(3):
        status = await box.text("grep -E 'Sig(Blk|Ign)' /proc/self/status" + trailer)
        blocked, ignored = (int(line.split()[1], 16) for line in status.splitlines())
        assert blocked == 0
        assert ignored & ~(0b11 << 31) == 0  # 32 and 33 are libc's own
        assert await box.text("ls /proc/self/fd | wc -l") == "4"  # the last one is that of ls
        # The hard limit comes a moment after the start.
        settled = 'until [ "$(ulimit -Hu)" = 257 ]; do :; done; '
        assert await box.text(settled + "ulimit -Hu; ulimit -Su") == "257\n257"
        assert (await box.write("/x", b"x")).error is None


async def test_nothing_that_a_command_starts_ranks_behind_the_runner(box: "Box") -> None:
    """When memory runs out; nor what it starts so soon that the runner has not come round to it yet."""
    hogs = [asyncio.create_task(box.sh("while :; do /bin/true; done", 60, f"hog-{n}")) for n in range(6)]
    ranks = Counter([await box.text("cat /proc/self/oom_score_adj") for _ in range(150)])
    for number in range(6):
        await box.sandbox.cancel(f"hog-{number}")
    await asyncio.gather(*hogs)
    assert ranks.keys() <= {"500", "1000"}, ranks
    assert await box.text("until grep -qx 1000 /proc/$$/oom_score_adj; do :; done; echo so") == "so"
    ours = Path("/proc/self/oom_score_adj").read_text().strip()
    assert await box.text(f"until grep -qx -- {ours} /proc/1/oom_score_adj; do :; done; echo so") == "so"
