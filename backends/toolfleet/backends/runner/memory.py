"""Who was killed for memory: read off the cgroup, or done here where there is no cgroup."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator

from toolfleet.backends.runner import procfs
from toolfleet.backends.runner.killer import signal_process
from toolfleet.backends.runner.reactor import Reactor
from toolfleet.backends.runner.spawn import HEADROOM

#: Seconds between two looks of the monitor while anything runs.
INTERVAL = 0.1
#: How often at most a crowd is gone through before the next look.
_PASSES = 20


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
    """Keeps the processes of a sandbox within its limits by killing, while anything runs.

    It looks ten times a second: what can be allocated or started in between is not prevented, only undone. The limit on
    processes is its affair only where the kernel ignores ``RLIMIT_NPROC``, as it does for root and as gVisor does. An
    engine's relays do not count: they are nobody's, and a relay may be larger than each of a crowd of commands.
    """

    def __init__(
        self, reactor: Reactor, memory: int, most: int | None, on_kill: Callable[[procfs.Process, str], None]
    ) -> None:
        self._reactor = reactor
        self._memory = memory
        self._most = most
        self._on_kill = on_kill
        self._ticking = False

    def start(self) -> None:
        """Look from now on, until no process is left."""
        if not self._ticking:
            self._ticking = True
            self._reactor.after(INTERVAL, self._tick)

    def _tick(self) -> None:
        alive = list(procfs.begun_inside())
        self._ticking = bool(alive)
        if alive:
            self._reactor.after(INTERVAL, self._tick)
        # Beyond the limit there are only file operations, which the runner starts from its reserve.
        if self._most is not None and len(alive) > self._most + HEADROOM:
            self._disperse(alive, f"Killed: the sandbox may have {self._most} processes at once")
            return
        if sum(procfs.resident(p.pid) for p in alive) <= self._memory:
            return
        # Counted again without counting shared pages twice, which is too dear to do at every look.
        sizes = {p: procfs.proportional(p.pid) for p in alive}
        if sum(sizes.values()) > self._memory:
            self._kill(max(alive, key=sizes.__getitem__), out_of_memory(self._memory))

    def _disperse(self, alive: list[procfs.Process], why: str) -> None:
        """Kill the session with the most processes; what it starts meanwhile is met by the next pass."""
        crowd, _ = Counter(process.session for process in alive).most_common(1)[0]
        for _ in range(_PASSES):
            members = [process for process in alive if process.session == crowd]
            if not members:
                return
            for process in members:
                self._kill(process, why)
            alive = list(procfs.begun_inside())

    def _kill(self, process: procfs.Process, why: str) -> None:
        self._on_kill(process, why)
        signal_process(process, signal.SIGKILL)


def out_of_memory(limit: int) -> str:
    """What a command is told that was killed for memory."""
    return f"Killed for memory: the sandbox may use {limit // 2**20} MiB"
