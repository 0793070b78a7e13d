"""Says that the worker lives, renews its leases, and keeps the runners of its sandboxes from ending them."""

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, ClassVar

from toolfleet.backends.base import Sandbox
from toolfleet.config import keys
from toolfleet.config.errors import SandboxLost
from toolfleet.workers.service import Service

if TYPE_CHECKING:
    from toolfleet.workers.core import Core


class Heartbeat(Service):
    """Every round: one script in Redis, then a ping to every sandbox whose lease is still ours.

    A runner hears from us only after Redis confirmed the lease, so a worker that is cut off from Redis lets its
    sandboxes end by themselves.
    """

    name: ClassVar[str] = "heartbeat"

    def __init__(self, core: "Core", interval: float) -> None:
        super().__init__(interval)
        self._core = core
        self._pinged = 0.0

    async def tick(self) -> None:
        """One heartbeat."""
        core = self._core
        held = [(lease.trajectory_id, lease.epoch) for lease in core.leases]
        beat = await core.state.heartbeat(core.worker_id, core.boot, self._facts(), held)
        await core.state.keep_broker_keys(core.worker_id)
        believed = dict(held)
        for trajectory in beat.lost:
            lease = core.leases.get(trajectory)
            # Only what was told lost under this very epoch: a newer lease may have come meanwhile.
            if lease is not None and lease.epoch == believed[trajectory] and not lease.closing:
                core.end_lease(lease, release=False)
        for trajectory, epoch in beat.unknown:
            known = core.leases.get(trajectory)
            if known is None or known.epoch < epoch:
                core.leases.add(trajectory, epoch)
        for lease in core.leases:
            if lease.trajectory_id in beat.orphaned:
                lease.orphaned_since = lease.orphaned_since or time.monotonic()
            else:
                lease.orphaned_since = None
        # A third of the runner's patience: two pings may get lost.
        if time.monotonic() - self._pinged > core.pool.ttl / 3:
            self._pinged = time.monotonic()
            await self._ping_all()

    async def _ping_all(self) -> None:
        core = self._core
        leased = [lease for lease in core.leases if lease.sandbox is not None and not lease.closing]
        await asyncio.gather(*(self._ping(lease.sandbox) for lease in leased if lease.sandbox))
        for sandbox in core.pool.ready():
            if not await self._ping(sandbox):
                await core.pool.drop_ready(sandbox)

    async def _ping(self, sandbox: Sandbox) -> bool:
        try:
            await sandbox.ping(self._core.pool.ttl)
        except SandboxLost:
            return False  # a leased one is told lost by its next call
        return True

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
        return facts
