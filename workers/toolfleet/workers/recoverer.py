"""Hands on what dead workers left, or ends it and tells their producers."""

import logging
from typing import TYPE_CHECKING, ClassVar

from toolfleet.workers.service import Service

if TYPE_CHECKING:
    from toolfleet.workers.core import Core

log = logging.getLogger(__name__)


class Recoverer(Service):
    """Every worker runs it; the script makes sure that each dead worker is recovered once.

    It also looks whether something was handed to this worker, so that a call in flight is not kept waiting until the
    next heartbeat.
    """

    name: ClassVar[str] = "recoverer"

    def __init__(self, core: "Core", interval: float) -> None:
        super().__init__(interval)
        self._core = core
        self._inherited = 0

    async def tick(self) -> None:
        """One look for workers whose heartbeat lapsed."""
        core = self._core
        if core.heartbeat.contact.steady:
            # Never ourselves: we are late, evidently not dead, and the next heartbeat says so.
            for worker in await core.state.recover_lapsed(but=core.worker_id, grace=0.0):
                log.warning("worker %s died; its trajectories are handed on or told", worker)
        inherited = await core.state.inherited(core.worker_id)
        if inherited != self._inherited:
            self._inherited = inherited
            core.heartbeat.wake()
