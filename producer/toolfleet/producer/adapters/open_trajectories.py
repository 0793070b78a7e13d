"""Trajectories under the ids that callers give them: opened at their first call, closed once."""

import asyncio
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolfleet.config.contract import ToolResult
from toolfleet.config.errors import TrajectoryClosed
from toolfleet.producer.fleet import Fleet
from toolfleet.producer.trajectory import Trajectory

#: Closed trajectories that are remembered, so that a late call is told so and does not open another.
REMEMBERED = 100_000
#: Characters of a caller's id that stand in the fleet's.
LEGIBLE = 100

_UNFIT = re.compile(r"[^!-~]")


class Released(Exception):
    """The trajectory was released; the call did not start."""


@dataclass
class _Entry:
    trajectory: Trajectory
    used: float = field(default_factory=time.monotonic)
    """When its last call was made or ended, by the monotonic clock."""
    in_flight: int = 0
    released: bool = False


class OpenTrajectories:
    """What callers know by their ids. Each gets an id of its own in the fleet, so another run may use theirs again."""

    def __init__(self, fleet: Fleet, profile: str, sweep: str) -> None:
        self._fleet = fleet
        self._profile = profile
        self._sweep = sweep
        known = fleet.settings.profiles.get(profile)
        self._longest = known.max_lifetime if known else float("inf")
        self._suffix = secrets.token_hex(4)
        self._open: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._closed: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, ident: str) -> bool:
        return ident in self._open

    def open(self, ident: str) -> Trajectory:
        """The trajectory ``ident``, a new one if there is none.

        Raises:
            Released: there was one.
        """
        return self._entry(ident).trajectory

    async def call(
        self, ident: str, name: str, arguments: Mapping[str, Any], timeout: float, call_id: str | None = None
    ) -> ToolResult:
        """Run one tool in the trajectory ``ident``, behind its earlier calls.

        Raises:
            Released: it was released, before or while the call waited for its slot.
            FleetError, InvalidCall: as `Trajectory.call`.
        """
        entry = self._entry(ident)
        entry.in_flight += 1
        try:
            return await entry.trajectory.call(name, arguments, timeout=timeout, call_id=_scoped(entry, call_id))
        except TrajectoryClosed:
            if entry.released:
                raise Released(ident) from None
            await self.release(ident)  # reaped for its idleness: its workspace is gone, and so is its id
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if entry.released and not (task and task.cancelling()):
                raise Released(ident) from None
            raise
        finally:
            entry.in_flight -= 1
            entry.used = time.monotonic()
            await self._drop_dead()

    async def release(self, ident: str) -> bool:
        """Close it after the calls that have started; later ones are turned away. Whether it was open."""
        entry = self._open.get(ident)
        self._forget(ident)
        if entry is None:
            return False
        entry.released = True
        await entry.trajectory.close()
        return True

    async def close(self) -> None:
        """Release all."""
        await asyncio.gather(*(self.release(ident) for ident in list(self._open)))

    def _entry(self, ident: str) -> _Entry:
        if ident in self._closed:
            raise Released(ident)
        entry = self._open.get(ident)
        if entry is None:
            trajectory = self._fleet.trajectory(self._name(ident), profile=self._profile, sweep=self._sweep)
            entry = self._open[ident] = _Entry(trajectory)
        self._open.move_to_end(ident)
        entry.used = time.monotonic()
        return entry

    async def _drop_dead(self) -> None:
        """Release those without a call for longer than any workspace lives, or callers that never do would fill us."""
        while self._open:
            ident, entry = next(iter(self._open.items()))
            if entry.in_flight or time.monotonic() - entry.used < self._longest:
                return
            await self.release(ident)

    def _forget(self, ident: str) -> None:
        self._open.pop(ident, None)
        self._closed[ident] = None
        self._closed.move_to_end(ident)
        while len(self._closed) > REMEMBERED:
            self._closed.popitem(last=False)

    def _name(self, ident: str) -> str:
        fit = _UNFIT.sub("_", ident[:LEGIBLE])
        digest = "" if fit == ident else f".{hashlib.sha256(ident.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
        return f"{fit}{digest}.{self._suffix}"


def _scoped(entry: _Entry, call_id: str | None) -> str | None:
    return None if call_id is None else f"{entry.trajectory.id}.{call_id}"
