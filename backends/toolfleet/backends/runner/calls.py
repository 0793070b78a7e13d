"""A call as the runner sees it, and the store of finished ones."""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from toolfleet.backends.runner import procfs
from toolfleet.backends.runner.capture import Capture
from toolfleet.backends.runner.killer import Target, TreeKill
from toolfleet.backends.runner.reactor import Timer

#: How many finished outcomes are kept for those who ask again, how many bytes of them, and for how many seconds.
KEEP_OUTCOMES, KEEP_BYTES, KEEP_SECONDS = 256, 32 * 1024 * 1024, 600.0
#: Ids of dropped outcomes that are remembered, so that their calls are not run again either.
KEEP_IDS = 20_000

TIMED_OUT, CANCELLED, NOT_STARTED, KILLED = 124, 130, 126, 137


class Finished(NamedTuple):
    """An outcome as it travels: ``outcome``, a JSON object, in a frame's header, and ``body`` = stdout + stderr."""

    outcome: str
    body: bytes = b""


Waiter = Callable[[Finished], None]


def outcome(
    exit_code: int,
    *,
    stdout: tuple[bytes, int, int] = (b"", 0, 0),
    stderr: tuple[bytes, int, int] = (b"", 0, 0),
    ran: float = 0.0,
    error: str | None = None,
    detail: Mapping[str, Any] | None = None,
    timed_out: bool = False,
    cancelled: bool = False,
) -> Finished:
    """Put an outcome together; a stream is (bytes, length before the gap, bytes missing there)."""
    # Written by hand: it is on the way of every call, and mostly numbers.
    return Finished(
        f'{{"exit_code":{exit_code},"timed_out":{_word(timed_out)},"cancelled":{_word(cancelled)},'
        f'"stdout":[{len(stdout[0])},{stdout[1]},{stdout[2]}],"stderr":[{len(stderr[0])},{stderr[1]},{stderr[2]}],'
        f'"ran":{ran:.6f},"error":{"null" if error is None else json.dumps(error)},'
        f'"detail":{json.dumps(detail) if detail else "{}"}}}',
        stdout[0] + stderr[0],
    )


def _word(value: bool) -> str:
    return "true" if value else "false"


class Call:
    """One running call. What most calls never set stands in the class, so that making one touches little memory."""

    pid = 0
    """The leader; 0 before the start."""
    status: int | None = None
    """The leader's exit code, once it has ended."""
    timed_out = False
    cancelled = False
    killed_for = ""
    """Why the monitor has killed one of its processes."""
    oom_mark = b""
    """What the cgroup's counters said at the start."""
    deadline: Timer | None = None
    drain: Timer | None = None
    kill: TreeKill | None = None
    on_stop: Callable[[], None] | None = None
    """Ends it early where it has no process tree of its own to be killed."""
    detail: Mapping[str, Any] | None = None
    """What is known of its outcome's detail beforehand."""

    def __init__(self, call_id: str, kind: str, keep: int, waiter: Waiter) -> None:
        self.id = call_id
        self.kind = kind
        self.out = Capture(keep)
        self.err = Capture(keep)
        self.waiters = [waiter]
        self.pipes: dict[int, Capture] = {}
        """The streams that are still open."""
        self.began = procfs.now()

    @property
    def target(self) -> Target:
        """What identifies its processes."""
        return Target(self.id, self.pid, int(self.began * procfs.TICKS))

    @property
    def ran(self) -> float:
        """Seconds since it began."""
        return procfs.now() - self.began


class Outcomes:
    """Finished outcomes by call id, the oldest dropped first; ids outlive their outcomes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, Finished]] = OrderedDict()
        self._bytes = 0
        self._dropped: OrderedDict[str, None] = OrderedDict()

    def add(self, call_id: str, finished: Finished) -> None:
        """Keep an outcome."""
        now = time.monotonic()
        self._kept[call_id] = (now, finished)
        self._bytes += len(finished.body)
        self._prune(now)

    def find(self, call_id: str) -> Finished | None:
        """The outcome of a call that has ended, None of one that was never seen."""
        if (entry := self._kept.get(call_id)) is not None:
            now = time.monotonic()
            if entry[0] >= now - KEEP_SECONDS:
                return entry[1]
            self._prune(now)
        if call_id in self._dropped:
            gone = f"The call {call_id} has ended, and its outcome is no longer kept"
            return outcome(NOT_STARTED, error=gone, detail={"forgotten": True})
        return None

    def _prune(self, now: float) -> None:
        while self._kept:
            call_id = next(iter(self._kept))
            when, finished = self._kept[call_id]
            if len(self._kept) <= KEEP_OUTCOMES and self._bytes <= KEEP_BYTES and when >= now - KEEP_SECONDS:
                break
            del self._kept[call_id]
            self._bytes -= len(finished.body)
            self._dropped[call_id] = None
        while len(self._dropped) > KEEP_IDS:
            self._dropped.popitem(last=False)
