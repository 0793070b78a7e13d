"""A few coroutines at once, however many there are in all."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Window:
    """Runs coroutines beside its block, at most ``limit`` at once; the first that fails ends the others."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def put(self, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work``, and wait until there is room for more."""
        self._running.add(asyncio.create_task(work))
        while len(self._running) >= self._limit:
            await self._wait(asyncio.FIRST_COMPLETED)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._running and kind is None:
                await self._wait(asyncio.FIRST_EXCEPTION)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _wait(self, until: str) -> None:
        done, self._running = await asyncio.wait(self._running, return_when=until)
        # All are asked before one is raised: an error that nobody has asked for would be logged.
        errors = [error for task in done if (error := task.exception()) is not None]
        if errors:
            raise errors[0]
