"""Trajectories that nobody uses any more are closed; those in which something runs are not."""

import asyncio
import os
from pathlib import Path

from fleet_processes import worker

from toolfleet.backends.local.cgroup import MemoryCgroups
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet


async def until_held(state: FleetState, *trajectories: str) -> None:
    """Wait until the worker holds exactly these."""
    expected = {name.encode() for name in trajectories}
    while await state.redis.smembers(state.key("leases", "w1")) != expected:
        await asyncio.sleep(0.02)


async def test_an_idle_trajectory_is_closed_unless_a_process_runs_in_it(
    settings: Settings, redis_url: str, state: FleetState
) -> None:
    with worker("w1", redis_url, TOOLFLEET_PROFILES__DEFAULT__IDLE_TIMEOUT="1"):
        async with (
            Fleet.connect(settings) as fleet,
            fleet.trajectory("idle") as idle,
            fleet.trajectory("serving") as serving,
        ):
            await serving.terminal("sleep 1000 > /dev/null 2>&1 &")
            await idle.terminal("true")
            await until_held(state, "serving")
            await serving.terminal("kill $(pgrep sleep)")
            await until_held(state)


async def test_a_background_process_keeps_a_trajectory_open_and_a_waiting_shell_does_not(
    settings: Settings, redis_url: str, state: FleetState
) -> None:
    """47: reaped is who does nothing, however many shells wait for him."""
    with worker("w1", redis_url, TOOLFLEET_PROFILES__DEFAULT__IDLE_TIMEOUT="1"):
        async with (
            Fleet.connect(settings) as fleet,
            fleet.trajectory("idle") as idle,
            fleet.trajectory("serving") as serving,
        ):
            started = await serving.terminal("sleep 1000", background=True)
            await idle.call("terminal_stateful", {"command": "A=1"})
            await idle.call("tmux", {"action": "start"})
            await until_held(state, "serving")
            assert (await serving.process("kill", str(started.detail["session_id"]))).ok
            await until_held(state)


async def test_a_call_in_flight_keeps_a_trajectory_open(settings: Settings, redis_url: str, state: FleetState) -> None:
    limits = {"TOOLFLEET_PROFILES__DEFAULT__IDLE_TIMEOUT": "0.2", "TOOLFLEET_PROFILES__DEFAULT__MAX_LIFETIME": "0.2"}
    with worker("w1", redis_url, **limits):
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            assert (await t.terminal("sleep 2; echo done")).stdout == "done\n"
            await until_held(state)


async def test_a_workspace_that_is_too_old_is_closed_whatever_runs_in_it(
    settings: Settings, redis_url: str, state: FleetState
) -> None:
    with worker("w1", redis_url, TOOLFLEET_PROFILES__DEFAULT__MAX_LIFETIME="2"):
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            await t.terminal("sleep 1000 > /dev/null 2>&1 &")
            await until_held(state, "t1")
            await until_held(state)


def test_cgroups_that_have_been_empty_for_long_are_swept(tmp_path: Path) -> None:
    # A plain folder: rmdir refuses what is not empty there as well.
    groups = MemoryCgroups(tmp_path, unified=True)
    for name in ("toolfleet-old", "toolfleet-busy", "toolfleet-new", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "toolfleet-busy" / "process").touch()
    for name in ("toolfleet-old", "toolfleet-busy", "other"):
        os.utime(tmp_path / name, (1, 1))
    groups.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {"toolfleet-busy", "toolfleet-new", "other"}
