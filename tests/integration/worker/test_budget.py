"""The fleet's budget for starting sandboxes, as two workers share it."""

import asyncio

import pytest

from toolfleet.config.errors import SandboxStartFailed, SpecRefused
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Breaker, Settings
from toolfleet.config.state import FleetState
from toolfleet.workers.budget import StartBudget


def two_workers(state: FleetState, patience: float = 30.0) -> tuple[StartBudget, StartBudget]:
    """The budgets of two workers."""
    return StartBudget(state, 10, patience), StartBudget(state, 10, patience)


async def test_the_fleet_starts_no_more_at_once_than_it_may(state: FleetState) -> None:
    profile = Profile(fleet_starting=2)
    now, most = 0, 0

    async def start(budget: StartBudget) -> None:
        nonlocal now, most
        async with budget.start(profile):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    await asyncio.gather(*(start(budget) for budget in two_workers(state) * 3))
    assert most == 2
    assert await state.redis.zcard(state.key("starting", profile.spec_hash)) == 0


async def test_a_rate_holds_for_all_workers_together(state: FleetState) -> None:
    spec = Profile().spec_hash
    verdicts = [await state.begin_start(spec, f"a{n}", most=0, rate=2.0, ttl=60) for n in range(3)]
    assert [verdict for verdict, _ in verdicts] == ["go", "go", "wait"]
    assert 0 < verdicts[2][1] <= 0.5
    while (await state.begin_start(spec, "a2", most=0, rate=2.0, ttl=60))[0] == "wait":
        await asyncio.sleep(0.01)


async def test_an_attempt_that_asks_twice_is_counted_once(state: FleetState) -> None:
    for attempt, verdict in (("a", "go"), ("a", "go"), ("b", "wait")):
        assert (await state.begin_start("spec", attempt, most=1, rate=0, ttl=60))[0] == verdict


async def test_the_start_of_a_worker_that_died_is_forgotten(state: FleetState) -> None:
    assert (await state.begin_start("spec", "a", most=1, rate=0, ttl=0.05))[0] == "go"
    while (await state.begin_start("spec", "b", most=1, rate=0, ttl=60))[0] == "wait":
        await asyncio.sleep(0.01)


async def test_who_waits_for_too_long_is_told_what_to_raise(state: FleetState) -> None:
    profile = Profile(fleet_starting=1)
    first, second = two_workers(state, patience=0.1)
    async with first.start(profile):
        with pytest.raises(SandboxStartFailed, match="raise fleet_starting"):
            async with second.start(profile):
                pass


async def test_failures_in_a_row_stop_every_worker_for_a_while(settings: Settings, state: FleetState) -> None:
    rules = settings.model_copy(update={"breaker": Breaker(failures=3, pause=0.2)})
    first, second = two_workers(FleetState(state.redis, rules))

    async def fail(budget: StartBudget, error: Exception) -> None:
        with pytest.raises(type(error)):
            async with budget.start(Profile()):
                raise error

    await fail(first, SandboxStartFailed("no"))
    await fail(first, SandboxStartFailed("no"))
    await fail(first, SpecRefused("never"))  # says nothing about the backend, and begins the count anew
    for budget in (first, second, first):
        await fail(budget, SandboxStartFailed("no"))
    with pytest.raises(SandboxStartFailed, match="fail to start in a row"):
        async with second.start(Profile()):
            pass
    async with second.start(Profile(memory_mib=64)):
        pass  # another kind is not concerned

    async def try_again() -> bool:
        try:
            async with second.start(Profile()):
                return True
        except SandboxStartFailed:
            return False

    while not await try_again():
        await asyncio.sleep(0.02)
    assert await state.redis.hget(state.key("budget", Profile().spec_hash), "failures") is None
