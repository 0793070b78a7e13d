"""What /proc tells about the processes of the sandbox."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

#: Kernel clock ticks a second, the unit of a process's start time.
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
#: Environment variable that marks the processes of a call.
MARK = "TOOLFLEET_CALL"

_MARK_PREFIX = MARK.encode() + b"="


@dataclass(frozen=True, slots=True)
class Process:
    """One live process; ``start`` tells apart two that had the same number, in ticks since boot."""

    pid: int
    parent: int
    session: int
    start: int


def now() -> float:
    """This moment in seconds on the clock of `Process.start`, which never goes back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def processes() -> Iterator[Process]:
    """Yield every live process of the sandbox but the runner: of its PID namespace, or else those below the runner."""
    me = os.getpid()
    if me == 1:
        yield from _everything(me)
        return
    # Orphans come to the runner, so all that it has ever started is below it.
    children: dict[int, list[Process]] = {}
    for process in _everything(me):
        children.setdefault(process.parent, []).append(process)
    below = children.pop(me, [])
    for process in below:  # grows on the way
        yield process
        below += children.pop(process.pid, [])


def _everything(runner: int) -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == runner:
            continue
        content = _read(f"/proc/{name}/stat")
        # The second field is the program's name in parentheses and may hold anything, further ones included.
        fields = content[content.rfind(b")") + 2 :].split()
        if len(fields) < 20 or fields[0] in (b"Z", b"X"):
            continue
        yield Process(int(name), int(fields[1]), int(fields[3]), int(fields[19]))


def begun_inside() -> Iterator[Process]:
    """Yield those `processes` that the sandbox itself has started: an engine's relays have their parent outside."""
    return (process for process in processes() if process.parent)


def mark_of(pid: int) -> str | None:
    """The call that a process was started for, by its first environment; None when it carries no mark."""
    for entry in _read(f"/proc/{pid}/environ").split(b"\0"):
        if entry.startswith(_MARK_PREFIX):
            return entry[len(_MARK_PREFIX) :].decode("utf-8", "surrogateescape")
    return None


def resident(pid: int) -> int:
    """Bytes of a process that are in memory, shared ones included; 0 when it is gone."""
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE if len(fields) > 1 else 0


def proportional(pid: int) -> int:
    """Bytes of a process that are in memory, each shared one divided by its users; dearer than `resident`."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return resident(pid)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:  # the process ended, or forbids being looked at
        return b""
