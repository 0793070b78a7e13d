"""One call on its way through a worker, and the two ways off the road."""

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

from toolfleet.backends.base import Outcome, Request, Sandbox
from toolfleet.config.contract import Status, Timing, ToolCall, ToolResult, ended, new_id
from toolfleet.workers.errands import Errand
from toolfleet.workers.leases import Lease
from toolfleet.workers.text import NOTHING, Stream
from toolfleet.workers.tools import Plan, Shown, Steps

_PROCESS, _ATTEMPTS = new_id("a"), itertools.count(1)

#: Seconds that a request is given when the ones before it have used up the call's time.
SHORTEST = 0.1


class Ended(Exception):
    """The call ends here, with this result."""

    def __init__(self, result: ToolResult) -> None:
        self.result = result


class Dropped(Exception):
    """The call is none of this worker's business: it ran already, or another worker holds its lease."""


@dataclass
class Run:
    """One call on its way through the steps."""

    lease: Lease
    call: ToolCall | None
    """None while its JSON still has to be read from the ledger."""
    call_id: str
    worker_id: str
    parallel: bool = False
    accepted: float = field(default_factory=time.monotonic)
    token: str = field(default_factory=lambda: f"{_PROCESS}.{next(_ATTEMPTS)}")
    """Tells this attempt from all others in the fleet."""
    cancelled: bool = False
    begun: float = 0.0
    ready: float = 0.0
    submitted_ago: float = 0.0
    started: bool = False
    """It has passed the gate of the ledger: its command may have run."""
    attempts: int = 1
    errand: Errand | None = None
    """What its tool does outside the sandbox; then it has no steps."""
    steps: Steps | None = None
    """What its tool does, waiting for the outcome of ``request``."""
    slow: bool = False
    """Its steps compute for long, see `Tool.slow`."""
    request: Request | None = None
    """The one under way, or next."""
    plan: Plan | None = None
    """What it was made of."""
    requests: int = 0
    """How many of them its tool has asked for."""
    timeout: float = 0.0
    """Seconds for all of them together."""
    sandbox: Sandbox | None = None
    outcome: Outcome | None = None
    """Of the last request."""
    streams: tuple[Stream, Stream] = (NOTHING, NOTHING)
    """What it printed."""
    shown: Shown | None = None
    """What the tool says in the end; None when a request was cut short."""
    ran: float = 0.0

    def require(self) -> ToolCall:
        """The call, known after `Executor.decode`."""
        if self.call is None:
            raise AssertionError("decode comes first")
        return self.call

    def ask(self, plan: Plan) -> None:
        """Turn ``plan`` into the next request; ids tell the requests of one call apart, also after a takeover."""
        self.requests += 1
        request_id = self.call_id if self.requests == 1 else f"{self.call_id}#{self.requests}"
        left = max(self.timeout - self.ran, SHORTEST)
        self.plan, self.request = plan, Request(request_id, plan.op, plan.args, left, plan.body)

    def end(self, status: Status, *, executed: Any, error: str | None = None, **fields: Any) -> ToolResult:
        """A result of this call, with what is known of its way so far."""
        now = time.monotonic()
        began = self.begun or now
        ready = self.ready or now
        queued = max(0.0, self.submitted_ago - (ready - self.accepted)) if self.submitted_ago else 0.0
        timing = Timing(queued=queued, waited=began - self.accepted, started=max(0.0, ready - began), ran=self.ran)
        fields = {"attempts": self.attempts, **fields}
        return ended(
            self.require(),
            status,
            executed=executed,
            error=error,
            worker_id=self.worker_id,
            lease_epoch=self.lease.epoch,
            workspace_generation=self.lease.generation,
            timing=timing,
            **fields,
        )
