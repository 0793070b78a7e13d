"""Starts sandboxes again and again, and kills somebody one line further into the start each time; run as a program.

``python dying_starter.py RUNTIME_DIR VICTIM``, where VICTIM is ``worker`` or ``bubblewrap``. After each start it tidies
up as another worker would, once, and prints what is left (`Seen`) as a line of JSON. It stops after a start in which
nobody had to die, or which left something.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from toolfleet.backends import bubblewrap, channel
from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.local import cgroup, launch, processes, records
from toolfleet.config.errors import SandboxLost, SandboxStartFailed
from toolfleet.config.profile import Profile

OWNER = Owner("fleet", "dying")
#: The files whose lines count, by victim: bubblewrap is there only for a part of the start.
_LINES: dict[str, set[str | None]] = {
    "worker": {module.__file__ for module in (bubblewrap, cgroup, launch, processes, records)},
    "bubblewrap": {launch.__file__},
}
#: What gives the runner all that it needs to go on alone.
_HAND_OVER = launch._Start._hand_over.__code__
#: Seconds in which processes must have ended, and in which a runner whose bubblewrap was killed is given up.
_PATIENCE, _ANSWER = 20.0, 1.0
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Seen:
    """What one start has left."""

    line: str
    """Before which somebody was killed: its file and number. Empty for a start that came to its end."""
    adopted: bool
    """The sandbox was ready. It was taken over and closed."""
    unattended: list[str]
    """Command lines of what ran on although it could not become a sandbox any more, before any janitor."""
    processes: list[str]
    """Command lines of what ran on after the janitor."""
    files: list[str]
    groups: list[str]

    @property
    def clean(self) -> bool:
        """Nothing is left."""
        return not (self.unattended or self.processes or self.files or self.groups)


def main() -> None:
    """One start after the other."""
    runtime_dir, victim = Path(sys.argv[1]), sys.argv[2]
    # Whatever starters leave behind becomes a child of this process, whoever its user is.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asyncio.run(_begin(BubblewrapBackend(runtime_dir)))  # what a machine does once is done
    others = set(os.listdir(runtime_dir / "sandboxes"))
    for number in range(1, 10_000):
        told, tell = os.pipe()
        starter = os.fork()
        if starter == 0:
            _start(runtime_dir, victim, number, tell)
        os.close(tell)
        with open(told) as words:
            line, _, handed_over = words.read().partition(" ")
        os.waitpid(starter, 0)
        unattended = _survivors() if victim != "worker" or not handed_over else []
        seen = _tidied(runtime_dir, others, line, unattended)
        print(json.dumps(asdict(seen)), flush=True)
        if not line or not seen.clean:
            break


async def _begin(backend: BubblewrapBackend) -> None:
    sandbox = await backend.create(Profile(), OWNER)
    await sandbox.close()


def _start(runtime_dir: Path, victim: str, number: int, tell: int) -> NoReturn:
    """Start a sandbox; kill the victim before the ``number``-th of those lines that it sees."""
    known: set[tuple[str, int]] = set()
    handed_over = ""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal handed_over
        file, line = frame.f_code.co_filename, frame.f_lineno
        if file not in _LINES[victim]:
            return None
        if frame.f_code is _HAND_OVER:
            handed_over = " handed over"
        if event == "line" and (file, line) not in known:
            known.add((file, line))
            if len(known) == number:
                os.write(tell, f"{Path(file).name}:{line}{handed_over}".encode())
                for pid in [os.getpid()] if victim == "worker" else _children():
                    os.kill(pid, signal.SIGKILL)
        return trace

    channel.ANSWER = _ANSWER
    threading.settrace(trace)
    sys.settrace(trace)
    with contextlib.suppress(SandboxStartFailed, SandboxLost):
        asyncio.run(_begin(BubblewrapBackend(runtime_dir)))
    os._exit(0)


def _tidied(runtime_dir: Path, others: set[str], line: str, unattended: list[str]) -> Seen:
    """Pass as a janitor, take over what is ready, and look at what is left."""
    folders = runtime_dir / "sandboxes"
    groups = cgroup.MemoryCgroups.find()
    ids = [name.rpartition("-")[2] for name in os.listdir(folders) if name not in others]
    adopted = asyncio.run(_janitor(BubblewrapBackend(runtime_dir)))
    left = [name for name in os.listdir(folders) if name not in others]
    kept = [str(path) for path in map(groups.path, ids) if path.exists()] if groups else []
    return Seen(line, adopted, unattended, _survivors(), left, kept)


async def _janitor(backend: BubblewrapBackend) -> bool:
    await backend.tidy()
    refs = await backend.list(OWNER)
    for ref in refs:
        heir = Box(await backend.attach(ref))
        assert await heir.text("echo on") == "on"
        await heir.sandbox.close()
    return bool(refs)


def _survivors() -> list[str]:
    """Children that do not end: their command lines, before they were killed after all."""
    until = time.monotonic() + _PATIENCE
    while (left := dict(_left())) and time.monotonic() < until:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return [*left.values()]


def _children() -> list[int]:
    """The children of all threads of this process."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def _left() -> Iterator[tuple[int, str]]:
    """Children that live, with their command lines; those that have ended are collected."""
    for pid in _children():
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            yield pid, Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


if __name__ == "__main__":
    main()
