"""Work that must not be left half done when its caller is cancelled."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T], undo: Callable[[T], object] | None = None) -> T:
    """Wait for ``work`` even when cancelled meanwhile, so that what it makes can be undone or cleaned up afterwards.

    ``undo`` is called with the result that nobody gets.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(BaseException):
                await asyncio.wait({task})
        if undo is not None and not task.cancelled() and task.exception() is None:
            undo(task.result())
        raise
