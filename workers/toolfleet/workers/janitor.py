"""Removes what dead sandboxes left on this machine: folders, sockets, control groups."""

from typing import ClassVar

from toolfleet.workers.pool import WarmPool
from toolfleet.workers.service import Service


class Janitor(Service):
    """Has every backend look at what it has on this machine; what is provably dead goes, whoever made it.

    A sandbox that lives is left alone: its holder keeps it, or its runner ends it.
    """

    name: ClassVar[str] = "janitor"

    def __init__(self, pool: WarmPool, interval: float) -> None:
        super().__init__(interval)
        self._pool = pool

    async def tick(self) -> None:
        """One look."""
        await self._pool.tidy()
