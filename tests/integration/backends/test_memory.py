"""The memory limit, by cgroup and by the runner's own monitor."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.conformance.limits import CROWD, HOG
from toolfleet.backends.local.records import Directory
from toolfleet.config.profile import Profile

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box

OUTSIDER = "held = bytearray(100_000_000); print(flush=True); input()"


@pytest.fixture(params=["cgroup", "monitor"])
async def small(request: pytest.FixtureRequest, runtime_dir: Path, box: "Box") -> AsyncIterator["Box"]:
    """A sandbox of 64 MiB, under each mechanism."""
    backend = BubblewrapBackend(runtime_dir, use_cgroups=request.param == "cgroup")
    if (await backend.probe()).limits["memory"] != request.param:
        pytest.skip("no memory cgroup can be made here")
    small = type(box)(await backend.create(Profile(memory_mib=64, disk_mib=8), Owner("f", "w")))
    yield small
    await small.sandbox.close()


async def test_a_command_over_the_limit_is_killed_and_told_so(small: "Box") -> None:
    """Exit code 137 and the reason; the runner lives, and the next command is not blamed."""
    hog = await small.sh(HOG, timeout=30)
    if b"cannot allocate" in hog.stderr:  # the monitor's second line, a limit on each process, was faster
        hog = await small.sh(CROWD, timeout=60)
    assert (hog.exit_code, hog.error) == (137, "Killed for memory: the sandbox may use 64 MiB")
    killed = await small.sh("kill -9 $$")
    assert (killed.exit_code, killed.error) == (137, None)
    assert await small.text("echo on") == "on"


async def test_many_small_processes_are_held_together(small: "Box") -> None:
    """The limit is on their sum."""
    assert (await small.sh(CROWD, timeout=60)).exit_code == 137


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can enter a sandbox from outside")
@pytest.mark.parametrize("small", ["monitor"], indirect=True)
async def test_what_has_come_in_from_outside_is_not_killed_for_it(small: "Box", runtime_dir: Path) -> None:
    """As an engine's relays do: the largest process of all is none of the sandbox's own."""
    record = Directory(runtime_dir / "sandboxes" / small.sandbox.ref.id).read()
    assert record is not None
    assert record.runner is not None
    enter = ["nsenter", "--target", str(record.runner.pid), "--pid", sys.executable, "-c", OUTSIDER]
    with subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as outsider:
        assert outsider.stdout is not None
        assert outsider.stdout.readline() == b"\n"
        assert (await small.sh(CROWD, timeout=60)).exit_code == 137
        assert outsider.poll() is None
        outsider.communicate(b"\n")
        assert outsider.returncode == 0
