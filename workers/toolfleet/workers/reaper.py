"""Closes trajectories that nobody uses any more."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, ClassVar

from toolfleet.config.errors import SandboxLost
from toolfleet.workers.leases import Lease
from toolfleet.workers.service import Service

if TYPE_CHECKING:
    from toolfleet.workers.core import Core

log = logging.getLogger(__name__)


class Reaper(Service):
    """Ends leases that have been idle, or without a living producer, for longer than they may; never a busy one.

    A trajectory without calls is not idle while a process that one of them has left runs in its sandbox.
    """

    name: ClassVar[str] = "reaper"

    def __init__(self, core: "Core", interval: float) -> None:
        super().__init__(interval)
        self._core = core

    async def tick(self) -> None:
        """One look at every lease."""
        if self._core.heartbeat.holds:
            await asyncio.gather(*(self._look(lease) for lease in self._core.leases))

    async def _look(self, lease: Lease) -> None:
        why = self._reason(lease) or (await self._idle(lease))
        # Asked again: a call may have come while the sandbox was asked.
        if why and not (lease.closing or lease.busy):
            log.warning("trajectory %s is closed: %s", lease.trajectory_id, why)
            self._core.end_lease(lease, release=True)

    def _reason(self, lease: Lease) -> str | None:
        if lease.closing or lease.busy:
            return None
        now = time.monotonic()
        if now - lease.born > lease.profile.max_lifetime:
            return f"it is {now - lease.born:.0f} s old"
        if lease.orphaned_since and now - lease.orphaned_since > self._core.settings.orphan_timeout:
            return "its producer is gone"
        return None

    async def _idle(self, lease: Lease) -> str | None:
        idle = time.monotonic() - lease.active
        if lease.closing or lease.busy or idle <= lease.profile.idle_timeout:
            return None
        if lease.sandbox is not None:
            try:
                if await lease.sandbox.ping(self._core.pool.ttl):
                    return None
            except SandboxLost:
                pass  # nothing runs in it any more
        return f"idle for {idle:.0f} s"
