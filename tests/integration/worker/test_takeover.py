"""Workers of one host that die, pause, stop or restart: another one goes on with what they held."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import pytest
import redis.asyncio
from fleet_processes import until_running, worker

from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.config.contract import Status
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet, ToolResult, Trajectory

Start = Callable[..., AbstractContextManager[Popen[bytes]]]


@pytest.fixture
def host(redis_url: str, tmp_path: Path) -> Start:
    """Starts workers that share a machine: one folder for their sandboxes."""

    def start(name: str, **env: str) -> AbstractContextManager[Popen[bytes]]:
        return worker(name, redis_url, "4", **{"TOOLFLEET_RUNTIME_DIR": str(tmp_path / "run"), **env})

    return start


async def until_serving(state: FleetState, *names: str) -> None:
    """Wait until these workers, and no others, are alive."""
    while set(await state.workers()) != set(names):
        await asyncio.sleep(0.02)


async def sandboxes(tmp_path: Path) -> int:
    """How many sandboxes the host has."""
    return len(await BubblewrapBackend(tmp_path / "run").list())


async def count(t: Trajectory, last: int) -> list[ToolResult]:
    """Calls that append 1 to ``last`` to a file and show it, one after another."""
    return [await t.terminal(f"echo {n} >> /tmp/n; cat /tmp/n") for n in range(1, last + 1)]


async def test_another_worker_goes_on_with_the_workspace_of_a_dead_one(
    settings: Settings, host: Start, state: FleetState
) -> None:
    with host("w1") as first:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t, fleet.trajectory("t2") as idle:
            assert (await t.terminal("echo kept > /tmp/f")).worker_id == "w1"
            await idle.terminal("echo idle > /tmp/f")
            with host("w2"):
                await until_serving(state, "w1", "w2")
                running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 8; cat /tmp/log")
                queued = asyncio.create_task(t.terminal("cat /tmp/f"))
                first.send_signal(signal.SIGKILL)
                result = await running
                assert (result.status, result.stdout, result.lease_epoch) == (Status.OK, "once\n", 2)
                assert result.worker_id == "w2"
                after = await queued
                assert (after.status, after.stdout, after.workspace_generation) == (Status.OK, "kept\n", 1)
                assert (await idle.terminal("cat /tmp/f")).stdout == "idle\n"


async def test_a_call_that_ended_while_nobody_held_it_is_brought_home(
    settings: Settings, host: Start, state: FleetState
) -> None:
    with host("w1") as first:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            running = await until_running(fleet, t, "sleep 0.5; echo done")
            with host("w2"):
                first.send_signal(signal.SIGKILL)
                assert (await running).stdout == "done\n"


async def test_a_sandbox_that_died_with_its_worker_is_told_once(
    settings: Settings, host: Start, state: FleetState, tmp_path: Path
) -> None:
    with host("w1") as first:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t, fleet.trajectory("t2") as idle:
            await idle.terminal("true")
            running = await until_running(fleet, t, "sleep 60")
            with host("w2"):
                await until_serving(state, "w1", "w2")
                first.send_signal(signal.SIGKILL)
                backend = BubblewrapBackend(tmp_path / "run")
                for ref in await backend.list():
                    await backend.destroy(ref)
                told = await running
                assert (told.status, told.executed) == (Status.LOST, "unknown")
                after = await t.terminal("echo anew")
                assert (after.status, after.stdout, after.workspace_generation) == (Status.OK, "anew\n", 2)
                assert (await idle.terminal("true")).status is Status.LOST
                assert (await idle.terminal("true")).status is Status.OK


async def test_a_worker_that_was_paused_for_too_long_leaves_its_lease_alone(
    settings: Settings, host: Start, state: FleetState, raw: redis.asyncio.Redis, tmp_path: Path
) -> None:
    with host("w1", TOOLFLEET_PROFILES__DEFAULT__WARM="0") as first:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            await t.terminal("echo kept > /tmp/f")
            running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 1; cat /tmp/log")
            with host("w2", TOOLFLEET_PROFILES__DEFAULT__WARM="0"):
                await until_serving(state, "w1", "w2")
                first.send_signal(signal.SIGSTOP)
                result = await running
                assert (result.status, result.stdout, result.worker_id) == (Status.OK, "once\n", "w2")
                first.send_signal(signal.SIGCONT)
                await until_serving(state, "w1", "w2")
                after = [await t.terminal("cat /tmp/f") for _ in range(10)]
                assert {(r.status, r.stdout, r.worker_id) for r in after} == {(Status.OK, "kept\n", "w2")}
                assert await sandboxes(tmp_path) == 1
            # w2 has stopped, and w1 was there to go on.
            again = await t.terminal("cat /tmp/f")
            assert (again.status, again.stdout, again.worker_id, again.lease_epoch) == (Status.OK, "kept\n", "w1", 3)


async def test_a_restarted_worker_takes_its_own_sandboxes_back(
    settings: Settings, host: Start, state: FleetState
) -> None:
    async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        with host("w1") as first:
            await t.terminal("echo kept > /tmp/f")
            running = await until_running(fleet, t, "sleep 1; cat /tmp/f")
            first.send_signal(signal.SIGKILL)
            first.wait()
        with host("w1"):
            result = await running
            assert (result.status, result.stdout, result.lease_epoch) == (Status.OK, "kept\n", 2)
            assert (await t.terminal("cat /tmp/f")).stdout == "kept\n"


async def test_nothing_stays_of_a_trajectory_that_was_closed_after_its_worker_s_death(
    settings: Settings, host: Start, state: FleetState, tmp_path: Path
) -> None:
    with host("w1", TOOLFLEET_PROFILES__DEFAULT__WARM="0") as first:
        async with Fleet.connect(settings) as fleet:
            async with fleet.trajectory("t1") as t:
                await t.terminal("true")
                with host("w2", TOOLFLEET_PROFILES__DEFAULT__WARM="0"):
                    await until_serving(state, "w1", "w2")
                    first.send_signal(signal.SIGKILL)
                    await t.close()
                    while (
                        await sandboxes(tmp_path)
                        or await state.redis.hget(state.key("lease", "t1"), "state") != b"closed"
                    ):
                        await asyncio.sleep(0.05)


async def test_a_stopping_worker_hands_over(settings: Settings, host: Start, state: FleetState) -> None:
    with host("w1") as first:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t, fleet.trajectory("t2") as idle:
            await idle.terminal("echo kept > /tmp/f")
            running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 2; cat /tmp/log")
            with host("w2"):
                await until_serving(state, "w1", "w2")
                first.send_signal(signal.SIGTERM)
                after = await idle.terminal("cat /tmp/f")
                assert (after.status, after.stdout) == (Status.OK, "kept\n")
                result = await running
                assert (result.status, result.stdout) == (Status.OK, "once\n")
                first.wait(20)
                moved = await t.terminal("cat /tmp/log")
                assert (moved.status, moved.stdout, moved.worker_id) == (Status.OK, "once\n", "w2")


async def test_a_worker_in_a_hurry_hands_a_call_over_while_it_runs(
    settings: Settings, host: Start, state: FleetState
) -> None:
    with host("w1", TOOLFLEET_DRAIN_TIMEOUT="100") as first:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 5; cat /tmp/log")
            with host("w2"):
                await until_serving(state, "w1", "w2")
                first.send_signal(signal.SIGTERM)
                while first.poll() is None:
                    await asyncio.sleep(0.3)
                    first.send_signal(signal.SIGTERM)
                result = await running
                assert (result.status, result.stdout, result.worker_id) == (Status.OK, "once\n", "w2")


async def test_a_rolling_restart_under_load_loses_nothing(settings: Settings, host: Start, state: FleetState) -> None:
    async with Fleet.connect(settings) as fleet:
        with host("w1") as first, host("w2") as second:
            await until_serving(state, "w1", "w2")
            lines = [fleet.trajectory() for _ in range(8)]
            work = [asyncio.create_task(count(t, 60)) for t in lines]
            while not all(t._epoch or t._holder for t in lines):
                await asyncio.sleep(0.02)
            first.send_signal(signal.SIGTERM)
            await asyncio.to_thread(first.wait, 30)
            with host("w3"):
                await until_serving(state, "w2", "w3")
                second.send_signal(signal.SIGTERM)
                await asyncio.to_thread(second.wait, 30)
                for results in await asyncio.gather(*work):
                    assert {r.status for r in results} == {Status.OK}
                    assert results[-1].stdout.split() == [str(n) for n in range(1, 61)]
                    assert {r.workspace_generation for r in results} == {1}
                for t in lines:
                    await t.close()
