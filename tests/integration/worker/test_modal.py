"""A worker whose sandboxes are in Modal's cloud, here the stand-in."""

import asyncio
import json
from typing import Any

from fleet_processes import until_running, wait_until, worker
from forking import fork_thrice
from standins.modal.client import StandIn

from toolfleet.config.contract import Fault, Status
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet


def environment(cloud: StandIn, warm: int = 1) -> dict[str, str]:
    """Variables of a worker with one profile, ``warm`` sandboxes of it warm."""
    profile = {
        "backend": "modal",
        "image": "debian:bookworm-slim",
        "storage": "disk",
        "warm": warm,
        "modal": {"unlimited_disk": True},
    }
    return {**cloud.env, "TOOLFLEET_PROFILES": json.dumps({"default": profile})}


async def test_trajectories_run_in_the_cloud_and_a_loss_is_told_once_with_its_cause(
    settings: Settings, redis_url: str, modal_cloud: StandIn
) -> None:
    """Each in a sandbox of its own; nothing is left there when the worker has stopped."""
    with worker("w1", redis_url, **environment(modal_cloud)):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t, fleet.trajectory() as other:
            assert (await t.terminal("echo kept > /root/file; cat /root/file")).stdout == "kept\n"
            assert (await other.terminal("cat /root/file")).exit_code == 1
            (mine,) = [made["id"] for made in modal_cloud.do("sandboxes") if _holds_file(modal_cloud, made)]
            modal_cloud.do("end", sandbox_id=mine, status="KERNEL_OOM_KILL")
            told: Any = await t.terminal("cat /root/file")
            assert (told.status, told.fault) == (Status.LOST, Fault.INFRASTRUCTURE)
            assert "out of memory" in told.error
            after = await t.terminal("cat /root/file")
            assert (after.status, after.exit_code, after.workspace_generation) == (Status.OK, 1, 2)
    wait_until(lambda: modal_cloud.do("sandboxes") == [])


def _holds_file(cloud: StandIn, made: dict[str, Any]) -> bool:
    return bool((cloud.folder / "sandboxes" / made["id"] / "root/root/file").exists())


async def test_a_worker_anywhere_goes_on_with_the_sandboxes_of_a_dead_one(
    settings: Settings, redis_url: str, modal_cloud: StandIn
) -> None:
    """They have no folder in common: two machines."""
    env = environment(modal_cloud, warm=0)  # a ready one of a killed worker stays until its runner gives up
    with worker("w1", redis_url, **env) as first, worker("w2", redis_url, **env) as second:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            while len(await fleet.state.workers()) < 2:
                await asyncio.sleep(0.05)
            dies = (await t.terminal("echo kept > /root/file")).worker_id
            running = await until_running(fleet, t, "echo once >> /root/log; sleep 3; cat /root/log")
            {"w1": first, "w2": second}[dies].kill()
            result = await running
            assert (result.status, result.stdout, result.lease_epoch) == (Status.OK, "once\n", 2)
            assert (await t.terminal("cat /root/file")).stdout == "kept\n"


async def test_a_trajectory_is_forked_in_the_cloud(settings: Settings, redis_url: str, modal_cloud: StandIn) -> None:
    """By any worker of the app."""
    env = environment(modal_cloud, warm=0)
    with worker("w1", redis_url, **env), worker("w2", redis_url, **env):
        async with Fleet.connect(settings) as fleet:
            await fork_thrice(fleet)
    wait_until(lambda: modal_cloud.do("sandboxes") == [])
