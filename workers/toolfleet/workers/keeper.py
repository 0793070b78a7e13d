"""Keeps the runners of this worker's sandboxes from ending them."""

import asyncio
from typing import TYPE_CHECKING, ClassVar

from toolfleet.backends.base import Sandbox
from toolfleet.config.errors import SandboxLost
from toolfleet.workers.service import Service

if TYPE_CHECKING:
    from toolfleet.workers.core import Core


class Keeper(Service):
    """Pings every sandbox, ready or leased, three times within the runner's patience.

    A runner hears from us only while Redis confirms our leases, so a worker that is cut off from Redis lets its
    sandboxes end by themselves.
    """

    name: ClassVar[str] = "keeper"

    def __init__(self, core: "Core", interval: float) -> None:
        super().__init__(interval)
        self._core = core

    async def tick(self) -> None:
        """One round of pings."""
        core = self._core
        if not core.heartbeat.holds:
            return
        kept = [lease for lease in core.leases if not lease.closing and not lease.saving]
        leased = [lease.sandbox for lease in kept if lease.sandbox is not None]
        ready = core.pool.ready()
        alive = await asyncio.gather(*(self._ping(sandbox) for sandbox in [*leased, *ready]))
        # A leased one that is gone is told lost by its next call.
        for sandbox, lives in zip(ready, alive[len(leased) :], strict=True):
            if not lives:
                await core.pool.drop_ready(sandbox)

    async def _ping(self, sandbox: Sandbox) -> bool:
        try:
            async with asyncio.timeout(self.interval):
                await sandbox.ping(self._core.pool.ttl)
        except (SandboxLost, TimeoutError):
            return False
        return True
