"""A whole fleet on containers."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from integration.docker.conftest import profile

from toolfleet.producer import Fleet

if TYPE_CHECKING:
    import docker


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
