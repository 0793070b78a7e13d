"""Persistent shells on a machine that is busy."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from toolfleet.backends.local.records import Directory

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box

#: How often the copy may have died too soon.
ATTEMPTS = 4


@pytest.fixture
async def crowded() -> AsyncIterator[int]:
    """A core that somebody else has to himself, but for crumbs."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this takes a core that can be spared")
    core = max(os.sched_getaffinity(0))
    hog = await asyncio.create_subprocess_exec("sh", "-c", "while :; do :; done")
    os.sched_setaffinity(hog.pid, {core})
    try:
        os.sched_setscheduler(hog.pid, os.SCHED_FIFO, os.sched_param(1))
        yield core
    except PermissionError:
        pytest.skip("this machine lets nobody ask for real time")
    finally:
        hog.kill()
        await hog.wait()


def state(pid: int) -> str:
    """The letter of a process's state; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


async def until_in(pid: int, wanted: str) -> None:
    while state(pid) != wanted:
        await asyncio.sleep(0.001)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can slow down processes of a sandbox")
async def test_a_copy_that_is_slow_to_die_takes_no_word_from_the_one_that_follows(
    box: "Box", runtime_dir: Path, crowded: int
) -> None:
    record = Directory(runtime_dir / "sandboxes" / box.sandbox.ref.id).read()
    assert record is not None
    assert record.runner is not None
    runner = record.runner.pid

    def kin() -> set[int]:
        """The shell, and the copies of it that wait: the runner's children."""
        return {int(pid) for pid in Path(f"/proc/{runner}/task/{runner}/children").read_text().split()}

    async def newcomer(known: set[int]) -> int:
        """The copy that has come to wait."""
        while len(kin() - known) != 1:
            await asyncio.sleep(0.001)
        (found,) = kin() - known
        await until_in(found, "S")
        return found

    async def shell(command: str) -> tuple[str, str]:
        outcome = await box.sandbox.run(box.request("shell", 5.0, command=command))
        return outcome.stdout.decode(), outcome.detail["state"]

    assert await shell("kept=yes") == ("", "kept")
    while len(kin()) != 1:  # the copy of that command has gone
        await asyncio.sleep(0.001)
    (serving,) = kin()
    slow_to_die = 0
    for _ in range(ATTEMPTS):
        while kin() != {serving}:
            await asyncio.sleep(0.001)
        ends = asyncio.create_task(shell("until [ -e /tmp/1 ]; do :; done; rm /tmp/1"))
        dying = await newcomer({serving})
        os.sched_setaffinity(dying, {crowded})
        await box.text("touch /tmp/1")
        assert await ends == ("", "kept")
        ends = asyncio.create_task(shell("until [ -e /tmp/2 ]; do :; done; rm /tmp/2; exit"))
        heir = await newcomer({serving, dying})
        os.kill(heir, signal.SIGSTOP)
        await until_in(heir, "T")
        slow_to_die += state(dying) in ("R", "S", "D")
        await box.text("touch /tmp/2")
        assert await ends == ("", "restored")
        await until_in(dying, "")
        os.kill(heir, signal.SIGCONT)
        assert await shell("echo $kept") == ("yes\n", "kept")
        serving = heir
    assert slow_to_die, "every copy died at once: nothing was shown"
