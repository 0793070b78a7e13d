"""Workers of one host that die, pause, stop or restart: another one goes on with what they held."""

import asyncio
import signal
from pathlib import Path

from fleet_processes import until_running
from shared_machine import COLD, Start, other, sandboxes, two_workers, until_serving

from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.config.contract import Status
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet, ToolResult, Trajectory


async def count(t: Trajectory, last: int) -> list[ToolResult]:
    """Calls that append 1 to ``last`` to a file and show it, one after another."""
    return [await t.terminal(f"echo {n} >> /tmp/n; cat /tmp/n") for n in range(1, last + 1)]


async def test_another_worker_goes_on_with_the_workspace_of_a_dead_one(
    settings: Settings, host: Start, state: FleetState
) -> None:
    async with two_workers(host, state) as workers, Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        dies = (await t.terminal("echo kept > /tmp/f")).worker_id
        running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 6; cat /tmp/log")
        queued = asyncio.create_task(t.terminal("cat /tmp/f"))
        workers[dies].send_signal(signal.SIGKILL)
        result = await running
        assert (result.status, result.stdout, result.lease_epoch) == (Status.OK, "once\n", 2)
        assert result.worker_id == other(dies)
        after = await queued
        assert (after.status, after.stdout, after.workspace_generation) == (Status.OK, "kept\n", 1)


async def test_a_call_that_ended_while_nobody_held_it_is_brought_home(
    settings: Settings, host: Start, state: FleetState
) -> None:
    async with two_workers(host, state) as workers, Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        dies = (await t.terminal("true")).worker_id
        running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 0.3; cat /tmp/log")
        workers[dies].send_signal(signal.SIGKILL)
        result = await running
        assert (result.status, result.stdout, result.worker_id) == (Status.OK, "once\n", other(dies))


async def test_a_sandbox_that_died_with_its_worker_is_told_once(
    settings: Settings, host: Start, state: FleetState, run: Path
) -> None:
    async with (
        two_workers(host, state, **COLD) as workers,
        Fleet.connect(settings) as fleet,
        fleet.trajectory("t1") as t,
        fleet.trajectory("t2") as idle,
    ):
        await idle.terminal("true")
        running = await until_running(fleet, t, "sleep 60")
        for one in workers.values():
            one.send_signal(signal.SIGSTOP)
        backend = BubblewrapBackend(run)
        refs = await backend.list()
        assert len(refs) == 2
        for name, one in workers.items():
            held = await state.redis.smembers(state.key("leases", name))
            one.send_signal(signal.SIGKILL if b"t1" in held else signal.SIGCONT)
        for ref in refs:
            await backend.destroy(ref)
        told = await running
        assert (told.status, told.executed) == (Status.LOST, "unknown")
        after = await t.terminal("echo anew")
        assert (after.status, after.stdout, after.workspace_generation) == (Status.OK, "anew\n", 2)
        assert (await idle.terminal("true")).status is Status.LOST
        assert (await idle.terminal("true")).status is Status.OK


async def test_a_worker_that_was_paused_for_too_long_leaves_its_lease_alone(
    settings: Settings, host: Start, state: FleetState, run: Path
) -> None:
    async with (
        two_workers(host, state, **COLD) as workers,
        Fleet.connect(settings) as fleet,
        fleet.trajectory("t1") as t,
    ):
        paused = (await t.terminal("echo kept > /tmp/f")).worker_id
        heir = other(paused)
        running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 1; cat /tmp/log")
        workers[paused].send_signal(signal.SIGSTOP)
        result = await running
        assert (result.status, result.stdout, result.worker_id) == (Status.OK, "once\n", heir)
        workers[paused].send_signal(signal.SIGCONT)
        await until_serving(state, "w1", "w2")
        after = [await t.terminal("cat /tmp/f") for _ in range(10)]
        assert {(r.status, r.stdout, r.worker_id) for r in after} == {(Status.OK, "kept\n", heir)}
        assert await sandboxes(run) == 1
        workers[heir].send_signal(signal.SIGTERM)
        await asyncio.to_thread(workers[heir].wait, 30)
        again = await t.terminal("cat /tmp/f")
        assert (again.status, again.stdout, again.worker_id) == (Status.OK, "kept\n", paused)
        assert (again.lease_epoch, again.workspace_generation) == (3, 1)


async def test_a_restarted_worker_takes_its_own_sandboxes_back(
    settings: Settings, host: Start, state: FleetState
) -> None:
    async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        with host("w1", TOOLFLEET_LEASE_TTL="60") as first:
            await t.terminal("echo kept > /tmp/f")
            running = await until_running(fleet, t, "sleep 1; cat /tmp/f")
            first.send_signal(signal.SIGKILL)
            first.wait()
        with host("w1"):
            result = await running
            assert (result.status, result.stdout, result.lease_epoch) == (Status.OK, "kept\n", 2)
            assert (await t.terminal("cat /tmp/f")).stdout == "kept\n"


async def test_nothing_stays_of_a_trajectory_that_was_closed_after_its_worker_s_death(
    settings: Settings, host: Start, state: FleetState, run: Path
) -> None:
    async with two_workers(host, state, **COLD) as workers, Fleet.connect(settings) as fleet:
        async with fleet.trajectory("t1") as t:
            workers[(await t.terminal("true")).worker_id].send_signal(signal.SIGKILL)
        while await sandboxes(run) or await state.redis.hget(state.key("lease", "t1"), "state") != b"closed":
            await asyncio.sleep(0.05)


async def test_a_stopping_worker_hands_over(settings: Settings, host: Start, state: FleetState) -> None:
    async with two_workers(host, state) as workers, Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        stops = (await t.terminal("echo kept > /tmp/f")).worker_id
        running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 1; cat /tmp/log")
        workers[stops].send_signal(signal.SIGTERM)
        result = await running
        assert (result.status, result.stdout, result.worker_id) == (Status.OK, "once\n", stops)
        await asyncio.to_thread(workers[stops].wait, 30)
        moved = await t.terminal("cat /tmp/log")
        assert (moved.status, moved.stdout, moved.worker_id) == (Status.OK, "once\n", other(stops))


async def test_a_worker_in_a_hurry_hands_a_call_over_while_it_runs(
    settings: Settings, host: Start, state: FleetState
) -> None:
    async with (
        two_workers(host, state, TOOLFLEET_DRAIN_TIMEOUT="100") as workers,
        Fleet.connect(settings) as fleet,
        fleet.trajectory("t1") as t,
    ):
        stops = (await t.terminal("true")).worker_id
        running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 10; cat /tmp/log")
        while workers[stops].poll() is None:
            workers[stops].send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
        result = await running
        assert (result.status, result.stdout, result.worker_id) == (Status.OK, "once\n", other(stops))


async def test_a_rolling_restart_under_load_loses_nothing(settings: Settings, host: Start, state: FleetState) -> None:
    async with two_workers(host, state) as workers, Fleet.connect(settings) as fleet:
        lines = [fleet.trajectory() for _ in range(8)]
        work = [asyncio.create_task(count(t, 60)) for t in lines]
        while not all(t._holder for t in lines):
            await asyncio.sleep(0.02)
        workers["w1"].send_signal(signal.SIGTERM)
        await asyncio.to_thread(workers["w1"].wait, 30)
        with host("w3"):
            await until_serving(state, "w2", "w3")
            workers["w2"].send_signal(signal.SIGTERM)
            await asyncio.to_thread(workers["w2"].wait, 30)
            for results in await asyncio.gather(*work):
                assert {r.status for r in results} == {Status.OK}
                assert results[-1].stdout.split() == [str(n) for n in range(1, 61)]
                assert {r.workspace_generation for r in results} == {1}
            for t in lines:
                await t.close()
