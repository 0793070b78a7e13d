"""How workers end, and what the trajectories they served are told."""

import asyncio
import os
import signal
import subprocess

import pytest
import redis.asyncio
from broker import deliver_twice
from fleet_processes import TOOLFLEET, until_running, worker

from toolfleet.config.contract import Fault, Status
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet
from toolfleet.workers.lifecycle import CANNOT_SERVE


async def test_killing_a_worker_is_told_once_and_the_trajectory_goes_on(settings: Settings, redis_url: str) -> None:
    with worker("w1", redis_url) as first:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            assert (await t.terminal("echo kept > /tmp/f")).worker_id == "w1"
            running = await until_running(fleet, t, "sleep 60")
            queued = asyncio.create_task(t.terminal("cat /tmp/f"))
            with worker("w2", redis_url):
                while "w2" not in await fleet.state.workers():
                    await asyncio.sleep(0.02)
                first.send_signal(signal.SIGKILL)
                told = await running
                assert (told.status, told.fault, told.executed) == (Status.LOST, Fault.INFRASTRUCTURE, "unknown")
                assert "w1" in str(told.error)
                after = await queued
                assert (after.status, after.exit_code, after.worker_id) == (Status.OK, 1, "w2")
                assert (after.lease_epoch, after.workspace_generation) == (2, 2)


async def test_a_loss_between_two_calls_is_told_by_the_next(settings: Settings, redis_url: str) -> None:
    with worker("w1", redis_url) as first, worker("w2", redis_url) as second:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            while len(await fleet.state.workers()) < 2:
                await asyncio.sleep(0.02)
            served = (await t.terminal("true")).worker_id
            holder = {"w1": first, "w2": second}[served]
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            told = await t.terminal("echo hi")
            assert (told.status, told.executed) == (Status.LOST, "no")
            assert served in str(told.error)
            assert (await t.terminal("echo hi")).stdout == "hi\n"


async def test_a_stopping_worker_finishes_what_runs(settings: Settings, redis_url: str, state: FleetState) -> None:
    with worker("w1", redis_url) as only:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            running = await until_running(fleet, t, "sleep 1; echo done")
            only.send_signal(signal.SIGTERM)
            result = await running
            assert (result.status, result.stdout) == (Status.OK, "done\n")
            only.wait(20)
            assert await state.workers() == {}


async def test_a_trajectory_whose_producer_was_killed_is_reaped(
    settings: Settings, redis_url: str, raw: redis.asyncio.Redis, state: FleetState
) -> None:
    with worker("w1", redis_url, TOOLFLEET_ORPHAN_TIMEOUT="0.5"):
        async with Fleet.connect(settings) as fleet:
            await fleet.trajectory("orphan").terminal("true")
            assert (await state.workers())["w1"]["used"] == "1"
            # As after kill -9: no goodbye, and the heartbeat lapses.
            if fleet._beat:
                fleet._beat.cancel()
            await raw.delete(state.key("producer", fleet.producer_id))
            while (await state.workers())["w1"]["used"] != "0":
                await asyncio.sleep(0.02)


async def test_a_redis_that_comes_back_empty_learns_the_leases_again(
    settings: Settings, redis_url: str, raw: redis.asyncio.Redis
) -> None:
    with worker("w1", redis_url):
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t, fleet.trajectory("t2") as other:
            await t.terminal("echo kept > /tmp/f")
            running = await until_running(fleet, other, "echo once >> /tmp/log; sleep 1; cat /tmp/log")
            await raw.flushall()
            after = await t.terminal("cat /tmp/f")
            assert (after.status, after.stdout, after.lease_epoch) == (Status.OK, "kept\n", 1)
            result = await running
            assert (result.status, result.stdout) == (Status.OK, "once\n")


async def test_an_empty_redis_and_a_dead_worker_lose_no_workspace_in_silence(
    settings: Settings, redis_url: str, raw: redis.asyncio.Redis
) -> None:
    with worker("w1", redis_url) as first:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t, fleet.trajectory("t2") as other:
            await t.terminal("echo kept > /tmp/f")
            running = await until_running(fleet, other, "sleep 60")
            first.send_signal(signal.SIGKILL)
            first.wait()
            await raw.flushall()
            with worker("w2", redis_url):
                told = await t.terminal("cat /tmp/f")
                assert (told.status, told.executed, told.lease_epoch) == (Status.LOST, "no", 2)
                assert "Redis lost its state" in str(told.error)
                after = await t.terminal("cat /tmp/f")
                assert (after.status, after.exit_code, after.workspace_generation) == (Status.OK, 1, 2)
                gone = await running
                assert (gone.status, gone.executed) == (Status.LOST, "unknown")
                assert (await other.terminal("echo on")).stdout == "on\n"


async def test_the_only_worker_s_death_is_told_without_another_worker(settings: Settings, redis_url: str) -> None:
    with worker("w1", redis_url) as only:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            running = await until_running(fleet, t, "sleep 60")
            only.send_signal(signal.SIGKILL)
            told = await running
            assert (told.status, told.executed) == (Status.LOST, "unknown")


async def test_a_second_signal_does_not_wait_for_what_runs(settings: Settings, redis_url: str) -> None:
    with worker("w1", redis_url, TOOLFLEET_DRAIN_TIMEOUT="100") as only:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            running = await until_running(fleet, t, "sleep 60")
            only.send_signal(signal.SIGTERM)
            while only.poll() is None:
                await asyncio.sleep(0.5)
                only.send_signal(signal.SIGTERM)
            assert (await running).status is Status.LOST


@pytest.mark.parametrize("twice", [True, False])
async def test_a_message_that_arrives_twice_runs_once(settings: Settings, redis_url: str, twice: bool) -> None:
    with worker("w1", redis_url):
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            deliver_twice(fleet, lambda: twice)
            for number in range(10):
                await t.terminal(f"echo {number} >> /tmp/log")
            assert (await t.terminal("cat /tmp/log")).stdout.split() == [str(n) for n in range(10)]


def test_a_worker_that_cannot_reach_redis_ends_with_a_sentence() -> None:
    env = {**os.environ, "TOOLFLEET_REDIS_URL": "redis://:hunter2@127.0.0.1:1"}
    done = subprocess.run([*TOOLFLEET, "worker"], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == CANNOT_SERVE
    assert "127.0.0.1:1 does not answer" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
