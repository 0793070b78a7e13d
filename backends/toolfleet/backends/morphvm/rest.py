"""Pausing a VM between turns."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

log = logging.getLogger(__name__)


class Rest:
    """Calls ``pause`` after ``after`` seconds without work, and ``resume`` before the next; never when that is None."""

    def __init__(
        self,
        after: float | None,
        pause: Callable[[], Awaitable[None]],
        resume: Callable[[], Awaitable[None]],
    ) -> None:
        self._after = after
        self._pause = pause
        self._resume = resume
        self._working = 0
        self._timer: asyncio.TimerHandle | None = None
        self._falling: asyncio.Task[None] | None = None
        self._waking = asyncio.Lock()
        self._paused = False

    @property
    def asleep(self) -> bool:
        """It is paused, or about to be."""
        return self._paused or self._falling is not None

    @contextlib.asynccontextmanager
    async def awake(self) -> AsyncIterator[None]:
        """No pause while inside."""
        self._working += 1
        self._stop_timer()
        try:
            if self.asleep:
                await self._wake()
            yield
        finally:
            self._working -= 1
            self.begin()

    def begin(self) -> None:
        """Count from now on, unless there is work."""
        self._stop_timer()
        if self._after is not None and not self._working:
            self._timer = asyncio.get_running_loop().call_later(self._after, self._fall)

    async def close(self) -> None:
        """Never pause again."""
        self._after = None
        self._stop_timer()
        if self._falling is not None:
            self._falling.cancel()
            await asyncio.wait({self._falling})

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fall(self) -> None:
        self._timer = None
        if not self.asleep:
            self._falling = asyncio.create_task(self._fall_asleep())

    async def _fall_asleep(self) -> None:
        try:
            await self._pause()
        except Exception:
            log.exception("a sandbox could not be paused")
        finally:
            # Whatever came of it: to resume what runs is harmless, to use what stands still is not.
            self._paused = True
            self._falling = None

    async def _wake(self) -> None:
        async with self._waking:
            if self._falling is not None:
                await asyncio.wait({self._falling})
            if self._paused:
                await self._resume()
                self._paused = False
