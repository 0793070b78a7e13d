"""Keeps the warm pool at its level."""

from typing import ClassVar

from toolfleet.workers.pool import WarmPool
from toolfleet.workers.service import Service


class Prewarmer(Service):
    """Refills the pool; woken whenever a sandbox was handed out or a slot became free."""

    name: ClassVar[str] = "prewarmer"

    def __init__(self, pool: WarmPool, interval: float) -> None:
        super().__init__(interval)
        self._pool = pool

    async def tick(self) -> None:
        """One refill."""
        await self._pool.refill()
