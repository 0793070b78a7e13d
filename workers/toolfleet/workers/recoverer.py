"""Ends what dead workers left in Redis, and tells their producers."""

import logging
from typing import ClassVar

from toolfleet.config.state import FleetState
from toolfleet.workers.service import Service

log = logging.getLogger(__name__)


class Recoverer(Service):
    """Every worker runs it; the script makes sure that each dead worker is recovered once."""

    name: ClassVar[str] = "recoverer"

    def __init__(self, state: FleetState, worker_id: str, interval: float) -> None:
        super().__init__(interval)
        self._state = state
        self._worker_id = worker_id

    async def tick(self) -> None:
        """One look for workers whose heartbeat lapsed."""
        # Never ourselves: we are late, evidently not dead, and the next heartbeat says so.
        for worker in await self._state.recover_lapsed(but=self._worker_id):
            log.warning("worker %s died; its trajectories are told", worker)
