"""Batching without a timer: an idle sender serves at once, a busy one gathers."""

import asyncio
from collections.abc import Sequence

import pytest

from toolfleet.config.coalesce import Coalescer


class Wire:
    """A receiver of batches that answers when it is told to: each item doubled."""

    def __init__(self, limit: int = 200) -> None:
        self.batches: list[list[int]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.sending = asyncio.Event()
        self.errors: dict[int, BaseException] = {}
        """What to raise for a batch that begins with the item."""
        self.coalescer: Coalescer[int, int] = Coalescer(self.send, limit)

    async def send(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.sending.set()
        await self.hold.wait()
        if items[0] in self.errors:
            raise self.errors[items[0]]
        return [2 * item for item in items]

    async def busy(self) -> asyncio.Future[int]:
        """Have one item, 0, under way and held there; its future."""
        self.hold.clear()
        self.sending.clear()
        first = self.coalescer.put(0)
        await self.sending.wait()
        return first


async def test_an_idle_one_sends_each_item_alone_and_at_once() -> None:
    wire = Wire()
    for item in range(3):
        assert await wire.coalescer.put(item) == 2 * item
    assert wire.batches == [[0], [1], [2]]


async def test_an_idle_one_adds_no_delay() -> None:
    """Nothing but the loop's own turns passes before the item is sent: no timer is involved."""
    wire = Wire()
    wire.coalescer.put(1)
    await asyncio.sleep(0)
    assert wire.batches == [[1]]


async def test_what_arrives_while_a_batch_is_under_way_leaves_as_the_next_one() -> None:
    wire = Wire()
    first = await wire.busy()
    later = [wire.coalescer.put(item) for item in range(1, 6)]
    await asyncio.sleep(0)
    assert wire.batches == [[0]], "nothing leaves while a batch is under way"
    wire.hold.set()
    assert await asyncio.gather(first, *later) == [0, 2, 4, 6, 8, 10]
    assert wire.batches == [[0], [1, 2, 3, 4, 5]]


async def test_order_is_kept_across_batches() -> None:
    wire = Wire(limit=7)
    await wire.busy()
    futures = [wire.coalescer.put(item) for item in range(1, 100)]
    wire.hold.set()
    await asyncio.gather(*futures)
    assert [item for batch in wire.batches for item in batch] == list(range(100))


async def test_a_batch_has_at_most_200_items() -> None:
    wire = Wire()
    await wire.busy()
    futures = [wire.coalescer.put(item) for item in range(450)]
    wire.hold.set()
    await asyncio.gather(*futures)
    assert [len(batch) for batch in wire.batches] == [1, 200, 200, 50]


async def test_an_error_goes_to_everyone_of_that_batch_and_to_nobody_else() -> None:
    wire = Wire()
    first = await wire.busy()
    second = [wire.coalescer.put(item) for item in (1, 2)]
    wire.errors[1] = OSError("the wire broke")
    wire.hold.set()
    assert await first == 0
    outcomes = await asyncio.gather(*second, return_exceptions=True)
    assert [str(error) for error in outcomes] == ["the wire broke"] * 2
    assert await wire.coalescer.put(3) == 6


async def test_an_error_that_nobody_waits_for_is_not_a_leak() -> None:
    """A future collected with an error that nobody asked for would be reported as never retrieved."""
    wire = Wire()
    wire.errors[1] = OSError("nobody cares")
    wire.coalescer.put(1)
    await wire.coalescer.idle()


async def test_a_wrong_number_of_answers_is_an_error_and_not_a_hang() -> None:
    async def forgetful(items: Sequence[int]) -> list[int]:
        return []

    with pytest.raises(RuntimeError, match="0 answers to 1 items"):
        await Coalescer(forgetful).put(1)


async def test_a_cancelled_waiter_does_not_disturb_the_others() -> None:
    wire = Wire()
    first = await wire.busy()
    one, two, three = (wire.coalescer.put(item) for item in (1, 2, 3))
    two.cancel()
    wire.hold.set()
    assert [await future for future in (first, one, three)] == [0, 2, 6]
    assert wire.batches == [[0], [1, 2, 3]], "its item is left in place: it may be on its way already"


async def test_a_cancelled_waiter_whose_batch_fails_does_not_disturb_the_others() -> None:
    wire = Wire()
    await wire.busy()
    one, two = (wire.coalescer.put(item) for item in (1, 2))
    wire.errors[1] = OSError("broke")
    one.cancel()
    wire.hold.set()
    with pytest.raises(OSError, match="broke"):
        await two


async def test_cancelling_the_task_that_waits_leaves_the_batch_alone() -> None:
    wire = Wire()
    wire.hold.clear()

    async def wait(item: int) -> int:
        return await wire.coalescer.put(item)

    tasks = [asyncio.create_task(wait(item)) for item in (1, 2)]
    await wire.sending.wait()
    tasks[0].cancel()
    wire.hold.set()
    assert await tasks[1] == 4
    assert tasks[0].cancelled() or tasks[0].cancelling()


async def test_idle_returns_at_once_when_nothing_is_under_way() -> None:
    await Wire().coalescer.idle()


async def test_idle_waits_for_everything_handed_in() -> None:
    wire = Wire(limit=2)
    await wire.busy()
    futures = [wire.coalescer.put(item) for item in range(5)]
    idle = asyncio.create_task(wire.coalescer.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    wire.hold.set()
    await idle
    assert all(future.done() for future in futures)


async def test_when_sending_is_cancelled_nobody_waits_for_ever() -> None:
    wire = Wire(limit=1)
    first = await wire.busy()
    second = wire.coalescer.put(1)
    wire.errors[0] = asyncio.CancelledError()
    wire.hold.set()
    done, pending = await asyncio.wait([first, second], timeout=5)
    assert not pending
    assert all(future.cancelled() for future in done)
    assert await wire.coalescer.put(2) == 4, "and the next item is served as ever"
