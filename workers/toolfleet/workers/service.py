"""The shape of every background loop of a worker: start, tick with jitter, stop."""

import asyncio
import contextlib
import logging
import random
from typing import ClassVar

from toolfleet.config.connection import OUTAGES

log = logging.getLogger(__name__)


class Service:
    """A loop that calls `tick` about every ``interval`` seconds, or at once after `wake`.

    Starting or stopping twice is harmless. An error in a tick is logged and the loop goes on.
    """

    name: ClassVar[str]

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def tick(self) -> None:
        """One round of work."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin; needs a running event loop."""
        if self._task is None:
            self._stopping = False
            self._task = asyncio.create_task(self._loop(), name=f"toolfleet-{self.name}")

    def wake(self) -> None:
        """Do the next round now."""
        self._wake.set()

    async def stop(self) -> None:
        """End the loop and wait for it."""
        task, self._task = self._task, None
        if task is not None:
            # The flag beside the cancellation: a library below a tick may swallow the latter, and some do.
            self._stopping = True
            self._wake.set()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _loop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                await self.tick()
            except OUTAGES as error:
                log.warning(
                    "%s: a round failed, the next one follows: %s", self.name, str(error) or type(error).__name__
                )
            except Exception:
                log.exception("%s: a round failed; the next one follows", self.name)
            if self._stopping:
                return
            # Jitter keeps the loops of many workers from meeting at Redis in step.
            # Not wait_for: on Python 3.11 it swallows a cancellation that meets the end of the wait.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.interval * random.uniform(0.9, 1.1)):  # noqa: S311
                    await self._wake.wait()
