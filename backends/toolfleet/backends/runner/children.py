"""The runner's children: who waits for the end of which, and who runs beside whom."""

import os
from collections.abc import Callable
from typing import Protocol

from toolfleet.backends.runner.reactor import Reactor


class Owner(Protocol):
    """What a process was started for."""

    killed_for: str
    """Why the monitor has killed one of its processes."""


class Children:
    """The only one who reaps; orphans of the sandbox included."""

    def __init__(self, reactor: Reactor) -> None:
        self._waiting: dict[int, tuple[Owner, Callable[[int], None]]] = {}
        self._active: dict[int, Owner] = {}
        self._joined = 0
        reactor.on_child(self.reap)

    def watch(self, pid: int, owner: Owner, ended: Callable[[int], None]) -> None:
        """Call ``ended(exit code)`` when the child ``pid`` has ended; 128 + n stands for signal n."""
        self._waiting[pid] = owner, ended

    def owner(self, pid: int) -> Owner | None:
        """For whom a child that is watched was started."""
        return self._waiting[pid][0] if pid in self._waiting else None

    def others(self, pid: int) -> frozenset[int]:
        """The children that are watched, but for ``pid``: they are nobody's orphans."""
        return frozenset(self._waiting) - {pid}

    def reap(self) -> None:
        """Collect every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            _, ended = self._waiting.pop(pid, (None, None))
            if ended is not None:
                code = os.waitstatus_to_exitcode(status)
                ended(code if code >= 0 else 128 - code)

    # -- whose can an orphan be? ----------------------------------------------------------------------------------

    def join(self, owner: Owner) -> int:
        """A command begins for ``owner``; returns its number, in the order of the starts."""
        self._active[id(owner)] = owner
        self._joined += 1
        return self._joined

    def leave(self, owner: Owner) -> None:
        """All that ran for ``owner`` has ended, as far as its calls are concerned."""
        self._active.pop(id(owner), None)

    def alone(self, owner: Owner) -> bool:
        """No other command runs now."""
        return not self._active.keys() - {id(owner)}

    def alone_since(self, owner: Owner, number: int) -> bool:
        """No other command runs now or has begun after the one with this number."""
        return self.alone(owner) and self._joined == number
