"""Drops saved workspaces from which nobody will start any more."""

from typing import ClassVar

from toolfleet.workers.saving import Saver
from toolfleet.workers.service import Service


class Dropper(Service):
    """Every worker runs it, for the snapshots that it reaches: who saved one may be gone."""

    name: ClassVar[str] = "dropper"

    def __init__(self, saver: Saver, interval: float) -> None:
        super().__init__(interval)
        self._saver = saver

    async def tick(self) -> None:
        """One look at what is due."""
        await self._saver.tidy()
