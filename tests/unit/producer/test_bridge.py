"""The way from any thread and any loop to one loop."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from toolfleet.producer.bridge import Bridge


@pytest.fixture
def elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def test_a_coroutine_is_carried_to_the_loop_from_another_one(elsewhere: asyncio.AbstractEventLoop) -> None:
    assert await Bridge(elsewhere).carry(_loop()) is elsewhere


async def test_on_the_loop_itself_it_is_just_awaited() -> None:
    """No other task, so a cancellation ends it at once."""

    async def task() -> asyncio.Task[None] | None:
        return asyncio.current_task()

    assert await Bridge(asyncio.get_running_loop()).carry(task()) is asyncio.current_task()


async def test_waiting_works_while_another_loop_runs_in_this_thread(elsewhere: asyncio.AbstractEventLoop) -> None:
    """T2: a reward function is called inside a running loop; it takes no thread of its own each time."""
    before = threading.active_count()
    assert Bridge(elsewhere).wait(_loop()) is elsewhere
    assert threading.active_count() == before


async def test_waiting_on_the_loop_itself_is_refused_with_the_remedy() -> None:
    with pytest.raises(RuntimeError, match="await the async twin"):
        Bridge(asyncio.get_running_loop()).wait(_loop())


async def test_giving_up_the_wait_cancels_the_work(elsewhere: asyncio.AbstractEventLoop) -> None:
    """Defect 41: a limit that does not reach what runs is none."""
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(Bridge(elsewhere).carry(work()))
    await asyncio.to_thread(begun.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread(ended.wait)
