"""Who was killed for memory: read off the cgroup, or done here where there is no cgroup."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from toolfleet.backends.runner import procfs
from toolfleet.backends.runner.reactor import Reactor

#: Seconds between two looks of the monitor while anything runs.
INTERVAL = 0.1


class OomCounter:
    """How often the kernel has killed in the sandbox's cgroup, from a descriptor that the host opened."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def mark(self) -> bytes:
        """The counters as they are now, unread: cheap enough for every call."""
        return os.pread(self._fd, 4096, 0)

    def killed_since(self, mark: bytes) -> bool:
        """Whether a process was killed for memory after `mark`."""
        return _kills(self.mark()) != _kills(mark)


def find_counter() -> int | None:
    """A descriptor of the counters of our own cgroup, in whatever version and as far as it can be seen from here."""
    for path in _counters():
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if b"oom_kill " in os.pread(fd, 4096, 0):
                return fd
            os.close(fd)
    return None


def _counters() -> Iterator[str]:
    root = "/sys/fs/cgroup"
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            # A container sees its own cgroup as the root, whatever the path says.
            for place in (path.rstrip("/"), ""):
                if not controllers:
                    yield f"{root}{place}/memory.events"
                elif "memory" in controllers.split(","):
                    yield f"{root}/{controllers}{place}/memory.oom_control"


def _kills(counters: bytes) -> int:
    """Processes killed for memory so far; cgroup v1 and v2 use the same word for it."""
    for line in counters.splitlines():
        name, _, value = line.partition(b" ")
        if name == b"oom_kill":
            return int(value)
    return 0


class Monitor:
    """Keeps the sum of all processes' memory under the limit by killing the biggest one, while anything runs.

    It looks ten times a second: what a process can allocate in between is not prevented, only undone.
    """

    def __init__(self, reactor: Reactor, limit: int, on_kill: Callable[[int, int], None]) -> None:
        self._reactor = reactor
        self._limit = limit
        self._on_kill = on_kill
        self._ticking = False

    def start(self) -> None:
        """Look from now on, until no process is left."""
        if not self._ticking:
            self._ticking = True
            self._reactor.after(INTERVAL, self._tick)

    def _tick(self) -> None:
        alive = list(procfs.processes())
        self._ticking = bool(alive)
        if alive:
            self._reactor.after(INTERVAL, self._tick)
        if sum(procfs.resident(p.pid) for p in alive) <= self._limit:
            return
        # Counted again without counting shared pages twice, which is too dear to do at every look.
        sizes = {p: procfs.proportional(p.pid) for p in alive}
        if sum(sizes.values()) <= self._limit:
            return
        biggest = max(alive, key=sizes.__getitem__)
        self._on_kill(biggest.pid, biggest.session)
        with contextlib.suppress(ProcessLookupError):
            os.kill(biggest.pid, signal.SIGKILL)
