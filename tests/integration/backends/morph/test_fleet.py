"""A fleet of real processes whose sandboxes are VMs."""

import asyncio

import pytest
from forking import fork_thrice
from integration.backends.morph.rig import profile
from standins.morph.process import StandIn

from toolfleet.config.contract import Fault, Status
from toolfleet.producer import Fleet


async def test_a_trajectory_on_vms_is_told_of_a_lost_one_and_goes_on(
    cloud: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is the predecessor's variable; afterwards no VM is left (see the fixture)."""
    monkeypatch.setenv("HECATE_DEFAULT_SNAPSHOT_ID", "snapshot_base")
    profiles = {"vm": profile(image=None, warm=1)}
    async with Fleet.connect(workers=1, slots=2, profiles=profiles) as fleet, fleet.trajectory(profile="vm") as t:
        first = await t.terminal("echo kept > /root/file; hostname")
        assert (first.status, first.exit_code) == (Status.OK, 0)
        assert (await t.terminal("cat /root/file")).stdout == "kept\n"
        cloud.lose(first.stdout.strip())
        told = await t.terminal("cat /root/file")
        assert (told.status, told.fault, told.executed) == (Status.LOST, Fault.INFRASTRUCTURE, "no")
        assert "404" in (told.error or "")
        again = await t.terminal("cat /root/file")
        assert (again.status, again.exit_code, again.workspace_generation) == (Status.OK, 1, 2)


async def test_a_trajectory_is_forked_by_snapshot(cloud: StandIn) -> None:
    """By any worker of the account; the snapshot goes when the last fork has begun."""
    before = len(cloud.snapshots())
    profiles = {"default": profile(warm=0, morph={"prepared_ttl": 0})}
    async with Fleet.connect(workers=2, slots=3, profiles=profiles) as fleet:
        await fork_thrice(fleet)
        while len(cloud.snapshots()) > before:
            await asyncio.sleep(0.05)
