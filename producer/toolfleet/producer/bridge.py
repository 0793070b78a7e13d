"""From any thread, and from any event loop, to the loop on which a fleet lives."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Bridge:
    """Runs coroutines on one event loop, whoever asks. Giving up the wait cancels them there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns; blocks the calling thread until then.

        Raises:
            RuntimeError: the calling thread is the loop's own, which would wait for itself for ever.
        """
        if _running_loop() is self._loop:
            work.close()
            raise RuntimeError(
                "this would block the event loop on which the fleet lives: await the async twin instead, "
                "or give this side a SyncFleet, which has a loop of its own"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C in the waiting thread cancels the call
            raise

    async def carry(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns; awaited on any loop."""
        if _running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
