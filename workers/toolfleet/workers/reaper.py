"""Closes trajectories that nobody uses any more."""

import logging
import time
from typing import TYPE_CHECKING, ClassVar

from toolfleet.workers.leases import Lease
from toolfleet.workers.service import Service

if TYPE_CHECKING:
    from toolfleet.workers.core import Core

log = logging.getLogger(__name__)


class Reaper(Service):
    """Ends leases that have been idle, or without a living producer, for longer than they may; never a busy one."""

    name: ClassVar[str] = "reaper"

    def __init__(self, core: "Core", interval: float) -> None:
        super().__init__(interval)
        self._core = core

    async def tick(self) -> None:
        """One look at every lease."""
        for lease in self._core.leases:
            why = self._reason(lease)
            if why:
                log.warning("trajectory %s is closed: %s", lease.trajectory_id, why)
                self._core.end_lease(lease, release=True)

    def _reason(self, lease: Lease) -> str | None:
        if lease.closing or lease.busy:
            return None
        now = time.monotonic()
        if now - lease.active > lease.profile.idle_timeout:
            return f"idle for {now - lease.active:.0f} s"
        if lease.orphaned_since and now - lease.orphaned_since > self._core.settings.orphan_timeout:
            return "its producer is gone"
        return None
