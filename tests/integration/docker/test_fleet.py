"""A whole fleet on containers."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from docker_engine import BUSYBOX
from forking import fork_thrice, snapshots
from integration.docker.conftest import profile

from toolfleet.config.contract import Status
from toolfleet.config.errors import InvalidCall, SpecRefused
from toolfleet.producer import Fleet

if TYPE_CHECKING:
    import docker


async def test_a_trajectory_may_name_another_image(client: "docker.APIClient") -> None:
    """Also its forks, and its next workspace after a loss; the others have that of the profile."""
    chosen = profile(workdir="/work", storage="disk", docker={"unlimited_disk": True, "user": "0:0"})
    async with (
        Fleet.connect(workers=1, slots=4, fleet="docker-image", profiles={"default": chosen}) as fleet,
        fleet.trajectory() as usual,
        fleet.trajectory(image=BUSYBOX) as other,
    ):
        assert (await usual.terminal("test -e /usr/bin/perl")).exit_code == 0
        assert (await other.terminal("test -e /usr/bin/perl")).exit_code == 1
        (fork,) = await other.fork(1)
        async with fork:
            assert (await fork.terminal("test -e /usr/bin/perl")).exit_code == 1
        for container in client.containers(filters={"ancestor": BUSYBOX}):
            client.kill(container)
        assert (await other.terminal("true")).status is Status.LOST
        assert (await other.terminal("test -e /usr/bin/perl")).exit_code == 1
        with pytest.raises(InvalidCall, match="cannot begin"):
            fleet.trajectory(image="")
    client.close()


@pytest.mark.parametrize("transport", ["socket", "relay"])
async def test_trajectories_run_in_containers_and_leave_none(client: "docker.APIClient", transport: str) -> None:
    """Each in its own, more of them than slots; a workspace lives from call to call."""
    chosen = profile(workdir="/work", warm=1, docker={"transport": transport})
    fleet_name = f"docker-{transport}"

    async with Fleet.connect(workers=2, slots=2, fleet=fleet_name, profiles={"default": chosen}) as fleet:

        async def rollout(number: int) -> tuple[str, int | None]:
            async with fleet.trajectory() as t:
                await t.write_file("/work/check.sh", f'test "$(cat answer)" = {number}\n')
                await t.terminal(f"ls -A | xargs; echo {number} > answer")
                verdict = await t.terminal("bash check.sh; echo $?", timeout=20)
                return verdict.stdout, verdict.exit_code

        assert await asyncio.gather(*(rollout(number) for number in range(8))) == [("0\n", 0)] * 8
        assert client.containers(filters={"label": f"toolfleet.fleet={fleet_name}"})
    assert client.containers(all=True, filters={"label": f"toolfleet.fleet={fleet_name}"}) == []
    client.close()


@pytest.mark.parametrize("transport", ["socket", "relay"])
async def test_a_trajectory_is_forked_on_an_engine(client: "docker.APIClient", transport: str) -> None:
    """By any worker of it; no image is left."""
    options = {"transport": transport, "unlimited_disk": True, "user": "root"}
    chosen = profile(warm=0, storage="disk", docker=options)
    fleet_name = f"docker-fork-{transport}"
    mine = {"label": f"toolfleet.fleet={fleet_name}"}
    async with Fleet.connect(workers=2, slots=3, fleet=fleet_name, profiles={"default": chosen}) as fleet:
        await fork_thrice(fleet)
        while client.images(filters=mine, all=True):
            await asyncio.sleep(0.05)
    assert client.containers(all=True, filters=mine) == []
    client.close()


async def test_a_fork_of_files_in_memory_is_refused_and_costs_nothing(client: "docker.APIClient") -> None:
    """The trajectory goes on."""
    profiles = {"default": profile(warm=0, workdir="/work")}
    async with (
        Fleet.connect(workers=1, slots=1, fleet="docker-refused", profiles=profiles) as fleet,
        fleet.trajectory() as t,
    ):
        await t.terminal("echo kept > f")
        with pytest.raises(SpecRefused, match='storage = "disk"'):
            await t.fork(2)
        after = await t.terminal("cat f")
        assert (after.status, after.stdout, after.workspace_generation) == (Status.OK, "kept\n", 1)
        while await snapshots(fleet):
            await asyncio.sleep(0.02)
    client.close()
