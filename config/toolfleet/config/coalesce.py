"""Batching without a timer: what arrives while a batch is under way leaves as the next one.

An idle caller is served at once; a busy one pays the price of a batch once for many items.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """Turns calls for single items into calls of ``send`` for batches; the order of items is kept.

    ``send`` answers with one value for each item. When it raises, every item of that batch gets the exception. A
    caller that is cancelled leaves its item in place: it may be on its way already.
    """

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], limit: int = 200) -> None:
        self._send = send
        self._limit = limit
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    def put(self, item: Item) -> asyncio.Future[Answer]:
        """Hand in ``item``; the future holds its answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._drain())
        return future

    async def idle(self) -> None:
        """Wait until everything handed in so far has been answered."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
                await self._send_one(batch)
        finally:
            self._sender = None
            # Only a sender that was cancelled leaves some behind; nobody may wait for them for ever.
            self._cancel(self._waiting)
            self._waiting.clear()

    async def _send_one(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._send([item for item, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} items")
        except asyncio.CancelledError:
            self._cancel(batch)
            raise
        except Exception as error:  # noqa: BLE001 - handed on to everyone who waits
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # the waiter may be gone; its error is not a leak
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _cancel(self, batch: Iterable[tuple[Item, asyncio.Future[Answer]]]) -> None:
        for _, future in batch:
            future.cancel()
