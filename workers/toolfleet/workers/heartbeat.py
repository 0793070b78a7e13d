"""Says that the worker lives, and renews its leases."""

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, ClassVar

from toolfleet.config import keys
from toolfleet.config.contact import Contact
from toolfleet.workers.service import Service

if TYPE_CHECKING:
    from toolfleet.workers.core import Core


class Heartbeat(Service):
    """One script in Redis every round. Nothing else waits in this loop: whatever hangs, the heartbeat must not."""

    name: ClassVar[str] = "heartbeat"

    def __init__(self, core: "Core", interval: float) -> None:
        super().__init__(interval)
        self._core = core
        self.contact = Contact(core.settings.heartbeat, core.settings.lease_ttl)

    @property
    def holds(self) -> bool:
        """Whether Redis has confirmed within a lease's time that this worker lives: its leases are its own."""
        return time.monotonic() - self.contact.confirmed <= self._core.settings.lease_ttl

    async def tick(self) -> None:
        """One heartbeat."""
        core = self._core
        held = [(lease.trajectory_id, lease.epoch) for lease in core.leases]
        # After a cut a new connection gets through sooner than what an old one sends again and again.
        async with asyncio.timeout(core.settings.lease_ttl / 2):
            beat = await core.state.heartbeat(core.worker_id, core.boot, self._facts(), held)
            await core.state.keep_broker_keys(core.worker_id)
        believed = dict(held)
        for trajectory in beat.lost:
            lease = core.leases.get(trajectory)
            # Only what was told lost under this very epoch: a newer lease may have come meanwhile.
            if lease is not None and lease.epoch == believed[trajectory] and not lease.closing:
                core.end_lease(lease, release=False)
        for trajectory in beat.closing:
            lease = core.leases.get(trajectory)
            if lease is not None and lease.epoch == believed[trajectory]:
                core.end_lease(lease, release=True)
        for trajectory, epoch in beat.unknown:
            taken = core.take_lease(trajectory, epoch)
            if taken is not None:
                core.take_up(taken)
        for trajectory in beat.forgotten:
            lease = core.leases.get(trajectory)
            if lease is not None and lease.epoch == believed[trajectory] and not lease.closing:
                core.announce(lease)
        for lease in core.leases:
            if lease.trajectory_id in beat.orphaned:
                lease.orphaned_since = lease.orphaned_since or time.monotonic()
            else:
                lease.orphaned_since = None
        self.contact.note()

    def _facts(self) -> dict[str, str | int]:
        core = self._core
        facts: dict[str, str | int] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "queue": keys.queue(core.settings.fleet, core.worker_id),
            "slots": core.settings.slots,
            "accepting": int(core.accepting),
            "calls": core.calls,
            "warm_hits": core.pool.warm_hits,
            "cold_starts": core.pool.cold_starts,
        }
        for name, profile in core.pool.profiles.items():
            facts[f"serves:{name}"] = 1
            facts[f"warm:{name}"] = core.pool.warm(profile)
        return facts | {f"reaches:{place}": 1 for place in core.pool.places}
