"""Starts of bubblewrap that are broken off: whenever it happens, nothing of them stays."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolfleet.backends.bubblewrap import FIRST_UID
from toolfleet.backends.local import launch, processes

#: Of one start in a hundred the child was left when nobody waited for its parent to stop.
STARTS = 500
#: A user of nobody else's sandboxes.
UID = FIRST_UID - 1


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
    namespaces = ["--unshare-user", "--unshare-pid", "--unshare-net", "--as-pid-1"]
    for number in range(STARTS):
        gate_theirs, gate = os.pipe()
        started = subprocess.Popen(
            ["bwrap", *namespaces, "--ro-bind", "/", "/", "--block-fd", str(gate_theirs), "--", "true"],
            pass_fds=[gate_theirs],
            user=UID,
            group=UID,
            extra_groups=(),
            stderr=subprocess.DEVNULL,
        )
        processes.adopt(started.pid)
        started.returncode = 0
        time.sleep(number % 80 * 0.00005)  # any moment of its first milliseconds
        launch._kill(started.pid, None)
        os.close(gate_theirs)
        os.close(gate)
    deadline = time.monotonic() + 30
    while left := list(processes_of(UID)):
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.02)
