"""A memory cgroup for each sandbox, below the worker's own, where the machine lets us make one."""

import asyncio
import contextlib
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "toolfleet-"
#: Seconds after which an empty cgroup is nobody's: a start that takes longer has failed.
_STALE = 120.0


class MemoryCgroups:
    """Makes and removes memory cgroups, of version 1 or 2, whichever holds the memory controller."""

    def __init__(self, parent: Path, *, unified: bool) -> None:
        self._parent = parent
        self._unified = unified

    @classmethod
    def find(cls) -> "MemoryCgroups | None":
        """Find out by trying whether memory cgroups can be made here; None when they cannot."""
        for parent, unified in _candidates():
            groups = cls(parent, unified=unified)
            probe = f"probe-{os.getpid()}-{time.monotonic_ns()}"
            try:
                groups.create(probe, 2**30)
            except OSError:
                continue
            finally:
                groups.remove(groups.path(probe))
            return groups
        return None

    def path(self, name: str) -> Path:
        """Where the cgroup ``name`` is."""
        return self._parent / f"{_PREFIX}{name}"

    def create(self, name: str, limit: int) -> Path:
        """Make a cgroup whose processes may use ``limit`` bytes together, and no swap.

        Raises:
            OSError: the machine does not allow it; nothing is left behind.
        """
        path = self.path(name)
        path.mkdir()
        try:
            if self._unified:
                (path / "memory.max").write_text(str(limit))
                with contextlib.suppress(OSError):  # absent where the kernel accounts no swap
                    (path / "memory.swap.max").write_text("0")
            else:
                (path / "memory.limit_in_bytes").write_text(str(limit))
                with contextlib.suppress(OSError):
                    (path / "memory.memsw.limit_in_bytes").write_text(str(limit))
        except OSError:
            path.rmdir()
            raise
        return path

    def counter(self, path: Path) -> int:
        """Open the file that counts kills for memory, to be read through the descriptor."""
        name = "memory.events" if self._unified else "memory.oom_control"
        return os.open(path / name, os.O_RDONLY | os.O_CLOEXEC)

    @staticmethod
    def add(path: Path, pid: int) -> None:
        """Move a process into the cgroup; its children follow it."""
        (path / "cgroup.procs").write_text(str(pid))

    @staticmethod
    def remove(path: Path) -> bool:
        """Remove a cgroup; False while processes of it are still ending."""
        try:
            path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def sweep(self) -> None:
        """Remove cgroups that have been empty for long: their sandboxes' folders went before anyone removed them."""
        for path in self._parent.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE:
                    self.remove(path)  # refused by the kernel while a process is in it

    @classmethod
    async def removed(cls, path: Path, patience: float) -> bool:
        """Remove a cgroup whose processes are ending; False when ``patience`` seconds do not suffice."""
        until = time.monotonic() + patience
        while not cls.remove(path):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.002)
        return True


def _candidates() -> list[tuple[Path, bool]]:
    """Directories in which a memory cgroup might be made: (parent, is version 2)."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if "memory" in controllers.split(","):
            found.append((_ROOT / "memory" / own.lstrip("/"), False))
        elif not controllers and (_ROOT / "cgroup.controllers").exists():
            found.append((_ROOT / own.lstrip("/"), True))
    return [(parent, unified) for parent, unified in found if not unified or _delegated(parent)]


def _delegated(parent: Path) -> bool:
    """Whether children of a version 2 cgroup get the memory controller; asks for it where possible."""
    control = parent / "cgroup.subtree_control"
    try:
        if "memory" not in control.read_text().split():
            control.write_text("+memory")  # refused as long as processes live in the parent itself
        return "memory" in control.read_text().split()
    except OSError:
        return False
