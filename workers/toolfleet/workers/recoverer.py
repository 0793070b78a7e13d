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
        for worker, boot in await self._state.lapsed():
            if worker == self._worker_id:
                continue  # late, evidently not dead; the next heartbeat says so
            log.warning("worker %s died; its trajectories are told", worker)
            while not await self._state.recover(worker, boot, f"worker {worker} died", if_lapsed=True):
                pass
            await self._state.drop_broker_keys(worker)
