"""What is seen of a fleet in Redis before and after each script, and what must hold of it whatever the model says."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio
from integration.config.model_parts import LIVE

from toolfleet.config import transitions
from toolfleet.config.answers import Holder
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState

LEGAL = {name: frozenset(transitions.steps(table)) for name, table in transitions.TABLES.items()}
#: Scripts that give a trajectory a slot for the asking; the others may only bring a workspace to a worker.
ASSIGNING = ("route", "heartbeat", "release")


@dataclass
class Seen:
    """Everything of interest that is in Redis at one time."""

    leases: dict[str, dict[str, str]] = field(default_factory=dict)
    calls: dict[str, dict[str, str]] = field(default_factory=dict)
    held: dict[str, set[str]] = field(default_factory=dict)

    def holder(self, trajectory: str) -> Holder | None:
        """Who holds the lease of a trajectory."""
        lease = self.leases[trajectory]
        return Holder(lease["worker"], lease["boot"], int(lease["epoch"])) if lease.get("state") in LIVE else None

    def sandbox(self, trajectory: str) -> str:
        """Id of the sandbox that the lease of a trajectory names, or empty."""
        return self.leases[trajectory].get("sandbox_id", "")


class History:
    """Compares what is seen after each script with what was seen before it."""

    def __init__(
        self, client: redis.Redis, state: FleetState, slots: dict[str, int], calls: dict[str, list[str]]
    ) -> None:
        self._redis = client
        self._state = state
        self._slots = slots
        self._calls = calls
        self.made: Counter[tuple[str, str, str, str]] = Counter()
        """Table, state before, script, state after: how often."""
        self.destroyed: set[str] = set()
        """Sandboxes that somebody was told to destroy."""
        self.kept: set[tuple[str, str]] = set()
        """(worker, trajectory): slots kept for leases that Redis has forgotten."""
        self.seen = self.look()

    def look(self) -> Seen:
        """What is in Redis now."""
        key, seen = self._state.key, Seen()
        with self._redis.pipeline(transaction=False) as pipe:
            for trajectory in self._calls:
                pipe.hgetall(key("lease", trajectory))
            for ident in self._idents():
                pipe.hmget(key("call", ident), "state", "boot", "epoch")
            for worker in self._slots:
                pipe.smembers(key("leases", worker))
            found: Any = iter(pipe.execute())
        seen.leases = {trajectory: next(found) for trajectory in self._calls}
        for ident in self._idents():
            state, boot, epoch = next(found)
            seen.calls[ident] = {"state": state or "", "boot": boot or "", "epoch": epoch or ""}
        seen.held = {worker: next(found) for worker in self._slots}
        return seen

    def _idents(self) -> Iterable[str]:
        return (ident for idents in self._calls.values() for ident in idents)

    def forget(self) -> None:
        """Redis has lost something: what was seen before counts no more."""
        self.seen = self.look()
        self.destroyed.clear()

    def after(self, script: str) -> None:
        """Look at what ``script`` has made of it."""
        before, self.seen = self.seen, self.look()
        for trajectory in self._calls:
            self._lease(script, trajectory, before, self.seen)
        for ident, now in self.seen.calls.items():
            if now != before.calls[ident]:
                self._step("call", before.calls[ident]["state"], script, now["state"])
        self._slots_in_use(script, before, self.seen)
        named = [sandbox for t in self._calls if (sandbox := self.seen.sandbox(t))]
        assert len(named) == len(set(named)), f"two leases name one sandbox: {named}"
        assert not self.destroyed & set(named), "a lease names a sandbox that was to be destroyed"

    def _lease(self, script: str, trajectory: str, before: Seen, now: Seen) -> None:
        was, new = before.leases[trajectory], now.leases[trajectory]
        a, b = was.get("state", ""), new.get("state", "")
        if a == b and before.holder(trajectory) == now.holder(trajectory):
            return
        self._step("lease", a, script, b)
        old, holder = int(was.get("epoch", 0)), now.holder(trajectory)
        assert int(new.get("epoch", 0)) >= old, f"{script} lowered the epoch of {trajectory}"
        if holder != before.holder(trajectory) and holder is not None:
            assert holder.epoch > old, f"{script} gave {trajectory} a new holder under an old epoch"

    def _step(self, table: str, before: str, script: str, after: str) -> None:
        assert (before, script, after) in LEGAL[table], f"{script} led a {table} from {before!r} to {after!r}"
        self.made[table, before, script, after] += 1

    def _slots_in_use(self, script: str, before: Seen, now: Seen) -> None:
        for worker, held in now.held.items():
            for trajectory in held - before.held[worker]:
                if not now.leases[trajectory]:
                    self.kept.add((worker, trajectory))
                elif not self._inherited(trajectory, before, now) and script in ASSIGNING:
                    assert len(held) <= self._slots[worker], f"{script} put {trajectory} on {worker}, which was full"
        self.kept = {(w, t) for w, t in self.kept if t in now.held[w]}
        for trajectory in self._calls:
            holder = now.holder(trajectory)
            owners = {worker for worker, held in now.held.items() if trajectory in held}
            spare = {worker for worker, kept in self.kept if kept == trajectory}
            mine = {holder.worker} if holder else set()
            assert mine <= owners <= mine | spare, f"{trajectory} is held by {owners}"

    @staticmethod
    def _inherited(trajectory: str, before: Seen, now: Seen) -> bool:
        return before.sandbox(trajectory) == now.sandbox(trajectory) != ""


class WatchedState(FleetState):
    """Every script is followed by a look."""

    def __init__(self, connection: redis.asyncio.Redis, settings: Settings) -> None:
        super().__init__(connection, settings)
        self.history: History | None = None

    async def _run(self, name: str, *args: str | int) -> Any:
        found = await super()._run(name, *args)
        if self.history is not None:
            self.history.after(name)
        return found
