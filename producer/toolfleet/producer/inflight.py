"""The calls that a producer awaits: who waits for what, and for how long."""

import asyncio
import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolfleet.config.contract import ToolResult

if TYPE_CHECKING:
    from toolfleet.producer.trajectory import Trajectory

#: Seconds that a call is awaited before the ledger is asked what became of it; each further look comes twice as late.
LOOK_AFTER, LOOK_AT_LATEST = 5.0, 60.0
#: Likewise after an outage.
LOOK_SOON = 1.0


class Again(enum.Enum):
    """Stands in for a result: the call must be carried again."""

    MOVED = "its worker does not hold the lease"
    LOST_ON_THE_WAY = "its message may have been lost"


@dataclass(eq=False, slots=True)
class Awaited:
    """One call on its way."""

    trajectory: "Trajectory"
    entered: int = 0
    """The epoch under which it stands in the ledger; 0 before."""
    future: "asyncio.Future[ToolResult | Again]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    doubted: bool = False
    """Redis was away while it was under way, and may have forgotten its end."""
    pause: float = LOOK_AFTER
    look_at: float = field(default_factory=lambda: time.monotonic() + LOOK_AFTER)

    def expect(self) -> "asyncio.Future[ToolResult | Again]":
        """The future of the next carriage."""
        if self.future.done():
            self.future = _future()
        return self.future


def _future() -> "asyncio.Future[ToolResult | Again]":
    return asyncio.get_running_loop().create_future()


class InFlight:
    """Every call that is awaited, by id."""

    def __init__(self) -> None:
        self._calls: dict[str, Awaited] = {}

    def add(self, call_id: str, trajectory: "Trajectory") -> Awaited:
        """Begin to await a call."""
        awaited = self._calls[call_id] = Awaited(trajectory)
        return awaited

    def remove(self, call_id: str) -> None:
        """Nobody awaits it any more."""
        self._calls.pop(call_id, None)

    def settle(self, call_id: str, outcome: ToolResult | Again) -> bool:
        """Hand an outcome to whoever awaits it; False when nobody does."""
        awaited = self._calls.get(call_id)
        if awaited is None or awaited.future.done():
            return False
        awaited.future.set_result(outcome)
        return True

    def awaits(self, call_id: str) -> bool:
        """Whether somebody awaits that call."""
        awaited = self._calls.get(call_id)
        return awaited is not None and not awaited.future.done()

    def doubt(self) -> None:
        """Redis was away just now: look soon after it is back."""
        soon = time.monotonic() + LOOK_SOON
        for awaited in self._calls.values():
            awaited.doubted, awaited.look_at = True, min(awaited.look_at, soon)

    def believe(self, call_id: str) -> bool:
        """Doubt a call no more; whether it was doubted."""
        awaited = self._calls.get(call_id)
        if awaited is None or not awaited.doubted:
            return False
        awaited.doubted = False
        return True

    def entered(self, trajectory: "Trajectory", epoch: int) -> bool:
        """Whether a call of ``trajectory`` entered the ledger under ``epoch`` or before, and has not ended."""
        return any(a.trajectory is trajectory and 0 < a.entered <= epoch for a in self._calls.values())

    def overdue(self, most: int) -> list[str]:
        """Calls in the ledger that are due to be asked for, ``most`` of them at once."""
        now = time.monotonic()
        found = []
        for call_id, awaited in self._calls.items():
            if awaited.entered and awaited.look_at <= now and not awaited.future.done():
                awaited.pause = min(2 * awaited.pause, LOOK_AT_LATEST)
                awaited.look_at = now + awaited.pause
                found.append(call_id)
                if len(found) == most:
                    break
        return found

    def cancel(self) -> None:
        """End every wait."""
        for awaited in list(self._calls.values()):
            awaited.future.cancel()
