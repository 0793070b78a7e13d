"""Functions of others: so many at once, so many in line, none beyond its deadline."""

import asyncio
import threading

import pytest
from fleet_processes import wait_until

from toolfleet.workers.turns import NoTurn, Overran, Turns


async def awaited(left: float) -> float:
    """Give the seconds left."""
    return left


async def test_a_function_gives_its_value_and_is_told_the_seconds_left() -> None:
    turns = Turns(1, 1)
    assert 0 < await turns.run(awaited, 30, blocking=False) <= 30
    assert 0 < await turns.run(lambda left: left, 30, blocking=True) <= 30


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(3), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("blocking", [False, True])
async def test_what_it_raises_comes_out_and_ends_nothing_else(error: BaseException, blocking: bool) -> None:
    def fail(left: float) -> None:
        raise error

    async def fail_later(left: float) -> None:
        await asyncio.sleep(0)
        raise error

    turns = Turns(1, 1)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        await turns.run(fail if blocking else fail_later, 30, blocking=blocking)
    assert isinstance(caught.value, ValueError) or type(error).__name__ in str(caught.value)
    assert await turns.run(awaited, 30, blocking=False)


async def test_a_coroutine_is_stopped_at_the_deadline_even_when_it_will_not_have_it() -> None:
    stopped, release = asyncio.Event(), asyncio.Event()

    async def stubborn(left: float) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            await release.wait()

    turns = Turns(1, 1)
    with pytest.raises(Overran, match=r"timed out after 0\.05 s"):
        await turns.run(stubborn, 0.05, blocking=False)
    await stopped.wait()
    with pytest.raises(NoTurn):
        await turns.run(awaited, 0.05, blocking=False)
    release.set()
    assert await turns.run(awaited, 30, blocking=False)


async def test_a_thread_keeps_its_turn_until_it_ends() -> None:
    release = threading.Event()
    turns = Turns(1, 1)
    with pytest.raises(Overran):
        await turns.run(lambda left: release.wait(), 0.05, blocking=True)
    with pytest.raises(NoTurn, match="no turn came before the deadline"):
        await turns.run(awaited, 0.05, blocking=False)
    release.set()
    assert await turns.run(awaited, 30, blocking=False)


async def test_the_line_is_bounded() -> None:
    running, release = 0, asyncio.Event()

    async def hold(left: float) -> None:
        nonlocal running
        running += 1
        await release.wait()

    turns = Turns(2, 3)
    tasks = [asyncio.create_task(turns.run(hold, 30, blocking=False)) for _ in range(5)]
    while running < 2:
        await asyncio.sleep(0)
    with pytest.raises(NoTurn, match="too many calls wait already"):
        await turns.run(hold, 30, blocking=False)
    assert running == 2
    release.set()
    await asyncio.gather(*tasks)
    assert running == 5


async def test_whoever_is_cancelled_in_line_takes_no_turn_along() -> None:
    release = asyncio.Event()

    async def hold(left: float) -> None:
        await release.wait()

    turns = Turns(1, 5)
    first = asyncio.create_task(turns.run(hold, 30, blocking=False))
    waiting = asyncio.create_task(turns.run(hold, 30, blocking=False))
    await asyncio.sleep(0)
    waiting.cancel()
    first.cancel()
    await asyncio.wait({first, waiting})
    assert await turns.run(awaited, 30, blocking=False)


async def test_a_thread_outlives_its_caller_and_gives_its_turn_back() -> None:
    release, ended = threading.Event(), threading.Event()

    def work(left: float) -> None:
        release.wait()
        ended.set()

    turns = Turns(1, 1)
    task = asyncio.create_task(turns.run(work, 30, blocking=True))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    release.set()
    assert await turns.run(awaited, 30, blocking=False)
    await asyncio.to_thread(wait_until, ended.is_set)
