"""A sandbox that takes its time to start, or never does: only those who want one of its kind notice."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_processes import worker

from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.config.contract import Fault, Status
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet

TESTS = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the gate is, and the sandboxes; a unix socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="tf-") as made:
        yield Path(made)


def environment(folder: Path) -> dict[str, str]:
    """A worker with an ordinary profile and two of backends that stand in one's way."""
    profiles = {
        "default": {"warm": 0},
        "slow": {"backend": "gated_backend:GatedBackend", "warm": 0},
        "never": {"backend": "flaky_backend:FlakyBackend", "warm": 0},
    }
    return {
        "PYTHONPATH": str(TESTS),
        "GATE": str(folder / "gate"),
        "FLAKY_FAILURES": "1000",
        "TOOLFLEET_PROFILES": json.dumps(profiles),
        "TOOLFLEET_RETRIES": json.dumps({"max": 2, "base": 0.01, "jitter": 0.01}),
        "TOOLFLEET_RUNTIME_DIR": str(folder / "run"),
    }


@pytest.mark.parametrize("many", [1, 6])
async def test_others_come_and_go_while_some_start(settings: Settings, redis_url: str, folder: Path, many: int) -> None:
    # The larger number is more than a worker starts of one backend at once.
    with worker("w1", redis_url, "8", **environment(folder)):
        async with Fleet.connect(settings) as fleet:
            slow = [fleet.trajectory(profile="slow") for _ in range(many)]
            waiting = [asyncio.create_task(t.terminal("echo at last")) for t in slow]
            while len(list(folder.glob("waiting.*"))) < min(many, settings.concurrent_starts):
                await asyncio.sleep(0.01)
            for number in range(10):  # more than there are slots, so that others must also end
                async with fleet.trajectory() as t:
                    assert (await t.terminal(f"echo {number}")).stdout == f"{number}\n"
            assert not any(task.done() for task in waiting)
            (folder / "gate").touch()
            assert {r.stdout for r in await asyncio.gather(*waiting)} == {"at last\n"}


async def test_a_kind_that_never_starts_fails_its_own_calls_only(
    settings: Settings, redis_url: str, folder: Path
) -> None:
    with worker("w1", redis_url, "4", **environment(folder)):
        async with Fleet.connect(settings) as fleet:

            async def rollout(profile: str) -> tuple[Status, Fault, str]:
                async with fleet.trajectory(profile=profile) as t:
                    r = await t.terminal("true")
                    return r.status, r.fault, r.executed

            kinds = ["default", "never"] * 6
            results = await asyncio.gather(*(rollout(kind) for kind in kinds))
            assert results[0::2] == [(Status.OK, Fault.NONE, "yes")] * 6
            assert results[1::2] == [(Status.FAILED, Fault.INFRASTRUCTURE, "no")] * 6


async def test_a_trajectory_given_up_while_its_sandbox_starts_leaves_neither_sandbox_nor_slot(
    settings: Settings, redis_url: str, folder: Path, state: FleetState
) -> None:
    with worker("w1", redis_url, "1", **environment(folder)):
        async with Fleet.connect(settings) as fleet:
            given_up = fleet.trajectory(profile="slow")
            waiting = asyncio.create_task(given_up.terminal("echo never"))
            while not list(folder.glob("waiting.*")):
                await asyncio.sleep(0.01)
            waiting.cancel()
            await given_up.close()
            (folder / "gate").touch()
            async with fleet.trajectory() as t:  # the only slot
                assert (await t.terminal("echo mine")).stdout == "mine\n"
            while await BubblewrapBackend(folder / "run").list():
                await asyncio.sleep(0.02)
            while (await state.workers())["w1"]["used"] != "0":
                await asyncio.sleep(0.02)
