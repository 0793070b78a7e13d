"""Ends a call's whole process tree: TERM, a grace period, then STOP and KILL until nothing of it is left."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from toolfleet.backends.runner import procfs
from toolfleet.backends.runner.procfs import Process
from toolfleet.backends.runner.reactor import Reactor, Timer

#: After this many seconds of KILL the call is answered even if a process hangs in the kernel.
GIVE_UP = 5.0

_FIRST_LOOK = 0.005
_LONGEST_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Target:
    """What identifies the processes of one call."""

    call_id: str
    leader: int
    started: int
    """In ticks, as in `Process.start`."""
    session: int = 0
    """Where the leader is older than the call: its session, in which only what is younger belongs to the call."""


def members(target: Target, leaders: frozenset[int], *, alone: bool) -> list[Process]:
    """The live processes of a call.

    Those of the leader's session; those that carry the call's mark in their first environment; orphans without any
    mark that are younger than the call, if it is ``alone`` (no other call runs that could own them); and every
    descendant of these. ``leaders`` are the runner's own children and whoever else is known to be somebody's: they
    are nobody else's.

    A process escapes only if it clears its environment, leaves the session and loses its parent *while another call
    runs*; it is still bound by the sandbox and ends with it.
    """
    alive = list(procfs.processes())
    runner = os.getpid()
    young = {p.pid for p in alive if p.start >= target.started} - leaders
    kin = young if target.session else {p.pid for p in alive} - leaders
    session = target.session or target.leader
    found = {p.pid for p in alive if p.pid == target.leader or (p.session == session and p.pid in kin)}
    for process in alive:
        if process.pid in found or process.pid in leaders:
            continue
        mark = procfs.mark_of(process.pid)
        orphan = mark is None and process.parent == runner and process.pid in young
        if mark == target.call_id or (alone and orphan):
            found.add(process.pid)
    grown = True
    while grown:
        children = {p.pid for p in alive if p.parent in found and p.pid in kin} - found
        found |= children
        grown = bool(children)
    return [p for p in alive if p.pid in found]


class TreeKill:
    """One running kill; calls ``done`` once, when nothing of the tree is left."""

    def __init__(
        self, reactor: Reactor, find: Callable[[], list[Process]], grace: float, done: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._find = find
        self._done = done
        self._timer: Timer | None = None
        self._wait = _FIRST_LOOK
        self._stopped: set[Process] = set()
        now = time.monotonic()
        self._kill_at = now + grace
        self._give_up_at = now + grace + GIVE_UP
        for process in self._find():
            signal_process(process, signal.SIGTERM)
            signal_process(process, signal.SIGCONT)  # a stopped process would not see the TERM
        self._look_again()

    def _look_again(self) -> None:
        self._timer = self._reactor.after(self._wait, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        alive = self._find()
        if not alive or now >= self._give_up_at:
            self._done()
        elif now < self._kill_at:
            self._wait = min(self._wait * 2, _LONGEST_LOOK, max(0.001, self._kill_at - now))
            self._look_again()
        else:
            self._strike(alive)

    def _strike(self, alive: list[Process]) -> None:
        """Stop what is new; kill everything once a look finds nothing new.

        Killing at once would free process slots, which a fork bomb's remaining members fill faster than a scan finds
        them; stopped processes keep their slots and fork no more.
        """
        new = [p for p in alive if p not in self._stopped]
        for process in new:
            signal_process(process, signal.SIGSTOP)
        self._stopped.update(new)
        if not new:
            for process in alive:
                signal_process(process, signal.SIGKILL)
        self._wait = _FIRST_LOOK
        self._look_again()


def signal_process(process: Process, number: int) -> None:
    """Send a signal to a process that may have ended, or belong to a user beyond our reach."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process.pid, number)
