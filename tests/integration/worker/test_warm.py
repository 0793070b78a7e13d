"""Warm sandboxes: who gets which, and what is never handed out."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from services import missing

from toolfleet.backends.base import Owner, Sandbox
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.conformance.box import Box
from toolfleet.config.errors import BackendUnavailable
from toolfleet.config.profile import Profile
from toolfleet.config.state import FleetState
from toolfleet.workers.budget import StartBudget
from toolfleet.workers.pool import WarmPool

OWNER = Owner("test", "w1")


@pytest.fixture
def run() -> Iterator[Path]:
    """The folder for sandboxes; empty again when a test has ended."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder)
        assert not list((Path(folder) / "sandboxes").glob("*"))


@asynccontextmanager
async def pool(state: FleetState, run: Path, **profiles: Profile) -> AsyncIterator[WarmPool]:
    """A worker's pool, filled to the warm level of these profiles."""
    budget = StartBudget(state, 4, 30.0)
    made = WarmPool(profiles, OWNER, budget=budget, ttl=60.0, runtime_dir=run, on_taken=lambda: None)
    try:
        await made.probe()
    except BackendUnavailable as error:
        missing(str(error))
    try:
        await made.refill()
        yield made
    finally:
        await made.close()
    assert await BubblewrapBackend(run).list() == []


async def kind(sandbox: Sandbox) -> str:
    """What the profile of a sandbox calls itself."""
    return await Box(sandbox).text("echo $KIND")


async def test_a_warm_one_goes_only_to_the_kind_that_it_was_made_for(state: FleetState, run: Path) -> None:
    small = Profile(warm=1, memory_mib=64, env={"KIND": "small"})
    large = Profile(warm=1, memory_mib=128, env={"KIND": "large"})
    async with pool(state, run, small=small, large=large) as warm:
        boxes = [await warm.acquire(large), await warm.acquire(large), await warm.acquire(small)]
        assert [await kind(box) for box in boxes] == ["large", "large", "small"]
        assert (warm.warm_hits, warm.cold_starts) == (2, 1)
        for box in boxes:
            await warm.destroy(box)


async def test_policy_makes_no_other_kind(state: FleetState, run: Path) -> None:
    hasty, patient = Profile(warm=1, default_timeout=1), Profile(warm=0, default_timeout=100, tools=("terminal",))
    async with pool(state, run, hasty=hasty, patient=patient) as warm:
        await warm.destroy(await warm.acquire(patient))
        assert warm.warm_hits == 1


async def test_one_that_died_while_it_waited_is_never_handed_out(state: FleetState, run: Path) -> None:
    profile = Profile(warm=2)
    async with pool(state, run, default=profile) as warm:
        dead = warm.ready()[0].ref
        await BubblewrapBackend(run).destroy(dead)
        box = await warm.acquire(profile)
        assert box.ref.id != dead.id
        assert await Box(box).text("echo alive") == "alive"
        await warm.destroy(box)


async def test_one_that_has_waited_for_too_long_is_replaced(state: FleetState, run: Path) -> None:
    profile = Profile(warm=1, warm_age=0.01)
    async with pool(state, run, default=profile) as warm:
        old = warm.ready()[0].ref.id
        while [box.ref.id for box in warm.ready()] in ([old], []):
            await warm.refill()
        assert warm.warm(profile) == 1


async def test_one_that_was_used_is_destroyed_and_nobody_gets_it_again(state: FleetState, run: Path) -> None:
    profile = Profile(warm=1)
    async with pool(state, run, default=profile) as warm:
        used = await warm.acquire(profile)
        for _ in range(2):  # letting go twice gives nothing back twice
            warm.discard(used)
        while used.ref in await BubblewrapBackend(run).list():
            await asyncio.sleep(0.01)
        await warm.refill()
        others = [await warm.acquire(profile) for _ in range(2)]
        assert len({used.ref.id, *(box.ref.id for box in others)}) == 3
        for box in others:
            await warm.destroy(box)


async def test_a_level_is_refilled_and_not_exceeded(state: FleetState, run: Path) -> None:
    profile = Profile(warm=2)
    async with pool(state, run, default=profile) as warm:
        await asyncio.gather(*(warm.refill() for _ in range(3)))
        assert warm.warm(profile) == 2
        assert len(await BubblewrapBackend(run).list()) == 2
