"""Starts of bubblewrap that are broken off: whenever it happens, and whoever is killed, nothing of them stays."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.backends.dying_starter import Seen

from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import FIRST_UID, BubblewrapBackend
from toolfleet.backends.local import launch, processes
from toolfleet.backends.local.processes import Identity
from toolfleet.backends.local.records import Directory, Record

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box

#: Of one start in a hundred the child was left when it was looked for before its parent had ended.
STARTS = 500
#: A user of nobody else's sandboxes.
UID = FIRST_UID - 1
NAMESPACES = ["--unshare-user", "--unshare-pid", "--unshare-net", "--as-pid-1"]


def processes_of(uid: int) -> Iterator[int]:
    """Live processes of a user."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if folder.stat().st_uid == uid and processes.Identity.of(int(folder.name)) is not None:
                    yield int(folder.name)
            except OSError:  # it ended meanwhile
                continue


@pytest.mark.usefixtures("_bwrap")
@pytest.mark.skipif(os.geteuid() != 0, reason="starts bubblewrap as a user of its own, which takes root")
def test_a_start_that_is_broken_off_leaves_no_process() -> None:
    for number in range(STARTS):
        gate_theirs, gate = os.pipe()
        started = subprocess.Popen(
            ["bwrap", *NAMESPACES, "--ro-bind", "/", "/", "--block-fd", str(gate_theirs), "--", "true"],
            pass_fds=[gate_theirs],
            start_new_session=True,
            user=UID,
            group=UID,
            extra_groups=(),
            stderr=subprocess.DEVNULL,
        )
        processes.adopt(started.pid)
        started.returncode = 0
        time.sleep(number % 80 * 0.00005)  # any moment of its first milliseconds
        launch._kill(Identity.of_child(started.pid))
        os.close(gate_theirs)
        os.close(gate)
    deadline = time.monotonic() + 30
    while left := list(processes_of(UID)):
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.02)


@pytest.mark.parametrize("victim", ["worker", "bubblewrap"])
async def test_whoever_is_killed_at_whatever_line_of_a_start_nothing_is_left(
    box: "Box", runtime_dir: Path, victim: str
) -> None:
    """No process, directory or cgroup after one pass of a janitor; what was ready lives on, as does another fleet's."""
    await box.sandbox.ping(600)
    program = Path(__file__).with_name("dying_starter.py")
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, str(program), str(runtime_dir), victim], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    starts = [Seen(**json.loads(line)) for line in done.stdout.splitlines()]
    assert not [seen for seen in starts if not seen.clean]
    assert not starts[-1].line
    if victim == "worker":
        assert any(seen.adopted for seen in starts)
        assert not all(seen.adopted for seen in starts if "launch.py" in seen.line)
    assert await box.text("echo on") == "on"


@pytest.mark.usefixtures("_bwrap")
def test_what_a_monitor_has_begun_is_found_after_its_end_and_nothing_else_is() -> None:
    """Whoever has its number now, or had it in between, is not taken for it."""
    monitor = subprocess.Popen(
        ["bwrap", *NAMESPACES, "--ro-bind", "/", "/", "--", "sleep", "9004"], start_new_session=True
    )
    identity = Identity.of_child(monitor.pid)
    while not (begun := [*processes.begun_by(identity)]):
        time.sleep(0.01)
    ticks = os.sysconf("SC_CLK_TCK")
    try:
        assert [*processes.begun_by(replace(identity, start=identity.start - 1))] == []
        monitor.kill()
        monitor.wait()
        assert [*processes.begun_by(identity)] == begun
        assert [*processes.begun_by(replace(identity, start=identity.start - 100 * ticks))] == []
    finally:
        for child in begun:
            child.kill()
    daemon_of = ["sh", "-c", "sleep 9005 >&2 & echo $!"]
    ordinary = subprocess.Popen(daemon_of, start_new_session=True, stdout=subprocess.PIPE)
    leader = Identity.of_child(ordinary.pid)
    told, _ = ordinary.communicate()
    daemon = Identity.of(int(told))
    assert daemon is not None
    assert [*processes.begun_by(leader)] == []
    daemon.kill()


async def test_a_start_under_way_is_left_alone(backend: BubblewrapBackend) -> None:
    """By every janitor, as long as its starter lives; what its starter only began to write goes with the starter."""
    creator = await asyncio.create_subprocess_exec("sleep", "9006")
    starter = Identity.of_child(creator.pid)
    directory = Directory(backend._root / "0123456789ab")
    directory.make(Record(Owner("other", "worker"), "hash", 0.0, processes.boot_id(), starter))
    aside = backend._root / f".{starter.pid}-{starter.start}-ba9876543210"
    aside.mkdir()
    await backend.tidy()
    assert directory.read() is not None
    assert aside.exists()
    creator.kill()
    await creator.wait()
    await backend.tidy()
    assert list(backend._root.iterdir()) == []
