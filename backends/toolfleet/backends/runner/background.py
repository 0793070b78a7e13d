"""One background process: what it prints, what it is told, how it ends."""

import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from toolfleet.backends.runner import killer, procfs
from toolfleet.backends.runner.applets import sha256
from toolfleet.backends.runner.children import Children
from toolfleet.backends.runner.killer import Target, TreeKill
from toolfleet.backends.runner.reactor import Reactor
from toolfleet.backends.runner.rolling import Rolling
from toolfleet.backends.runner.spawn import Attended
from toolfleet.backends.runner.streams import Reader, Writer

#: Bytes of its output that are kept.
KEEP = 200_000
#: Seconds between TERM and KILL.
GRACE = 2.0
#: How many moments are kept at which something was printed on a terminal.
MOMENTS = 2000
#: Characters of its command that a description repeats.
SHOWN = 1000

_DIGITS = 12
PREFIX = "proc_"


def name(call_id: str) -> str:
    """The id of the background process that a call starts; the same however often it is asked."""
    digest: str = sha256(call_id.encode("utf-8", "surrogateescape")).hexdigest()
    return PREFIX + digest[:_DIGITS]


class Background:
    """A process that outlives the call that has started it."""

    killed_for = ""
    """Why the monitor has killed one of its processes."""
    status: int | None = None
    """Its exit code, once it has ended."""
    ended_at = 0.0

    def __init__(
        self, reactor: Reactor, children: Children, call_id: str, about: dict[str, Any], began: float, child: Attended
    ) -> None:
        self.id = name(call_id)
        self.pid = child.pid
        self.about = about
        """``command``, ``cwd``, ``pty``, and whether it is but a shell that waits for input (``idle``)."""
        self.log = Rolling(KEEP)
        self.moments: deque[tuple[int, float]] = deque(maxlen=MOMENTS)
        """At which offset of a terminal's log was what printed, by seconds since the start."""
        self.seen = 0
        """Up to which offset the log has been read by those who go on where the last one stopped."""
        self.began = began
        self.input = Writer(reactor, child.input)
        self._output = Reader(reactor, child.output, self._printed)
        self._terminal = child.output if about["pty"] else None
        self._reactor = reactor
        self._children = children
        self._target = Target(call_id, child.pid, int(began * procfs.TICKS))
        self._listeners: list[Callable[[], None]] = []
        self._kill: TreeKill | None = None
        self._on_killed: list[Callable[[list[int]], None]] = []
        self._number = children.join(self)
        children.watch(child.pid, self, self._ended)

    @property
    def running(self) -> bool:
        """Its first process has not ended."""
        return self.status is None

    @property
    def at_rest(self) -> bool:
        """Its terminal belongs to nobody but itself: a shell there has no command in the foreground."""
        with contextlib.suppress(OSError):
            return self._terminal is None or not self._output.open or os.tcgetpgrp(self._terminal) in (0, self.pid)
        return True

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return procfs.now() - self.began

    @property
    def uptime(self) -> float:
        """Seconds that it ran, or runs by now."""
        return (self.ended_at or procfs.now()) - self.began

    def describe(self) -> dict[str, Any]:
        """What is known of it, for an outcome's detail."""
        self._output.drain()
        known = {
            "process": self.id,
            "pid": self.pid,
            "status": "running" if self.running else "exited",
            "age": self.age,
            "uptime": self.uptime,
            "log_start": self.log.start,
            "log_end": self.log.end,
            **self.about,
        }
        if self.status is not None:
            known["exit_code"] = self.status
        if self.killed_for:
            known["error"] = self.killed_for
        return known

    def on_end(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` once when it has ended."""
        self._listeners.append(listener)

    def forget_listener(self, listener: Callable[[], None]) -> None:
        """Do not call ``listener`` any more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def kill(self, done: Callable[[list[int]], None]) -> None:
        """End it with all that it has started; ``done`` gets the processes that withstood."""
        self._on_killed.append(done)
        if self._kill is None:
            self._kill = TreeKill(self._reactor, self._members, GRACE, self._killed)

    def members(self) -> list[int]:
        """The live processes that it has come to."""
        return [process.pid for process in self._members()]

    def discard(self) -> None:
        """Let go of its streams; whatever of it still runs is bound by the sandbox."""
        self.input.close()
        self._output.close()

    def _printed(self, data: bytes) -> None:
        if self._terminal is not None:
            self.moments.append((self.log.end, self.age))
        self.log.feed(data)

    def _members(self) -> list[procfs.Process]:
        # Its orphans can be told from those of others only as long as no other command has begun after it.
        alone = self._children.alone_since(self, self._number)
        found = killer.members(self._target, self._children.others(self.pid), alone=alone)
        if self.running:
            return found
        # Its number may be somebody else's by now, and a session of that number with it.
        reused = any(process.pid == self.pid for process in found)
        return [p for p in found if not (reused and self.pid in (p.pid, p.session))]

    def _killed(self) -> None:
        self._kill = None
        self._children.reap()
        withstood = self.members()
        waiting, self._on_killed = self._on_killed, []
        for done in waiting:
            done(withstood)

    def _ended(self, code: int) -> None:
        self.status = code
        self.ended_at = procfs.now()
        self._children.leave(self)
        self._output.drain()
        self.input.close()
        waiting, self._listeners = self._listeners, []
        for listener in waiting:
            listener()
