"""What every backend owes a trajectory that is forked."""

import asyncio

from toolfleet.config.contract import Status
from toolfleet.producer import Fleet, Trajectory


async def fork_thrice(fleet: Fleet, folder: str = "/root", **options: str) -> None:
    """A trajectory, and three that start where it stands; then wait until the fleet has dropped the copy."""
    async with fleet.trajectory(**options) as t:  # type: ignore[arg-type]
        prepared = await t.terminal(f"echo prepared > {folder}/f; sleep 9001 > /dev/null 2>&1 &")
        assert prepared.status is Status.OK, prepared
        forks = await t.fork(3)
        await t.terminal(f"echo changed > {folder}/f")
        await asyncio.gather(*(_go(number, fork, folder) for number, fork in enumerate(forks)))
        assert (await t.terminal(f"cat {folder}/f; pgrep -xc sleep")).stdout == "changed\n1\n"
        while await snapshots(fleet):
            await asyncio.sleep(0.02)


async def _go(number: int, fork: Trajectory, folder: str) -> None:
    async with fork:
        first = await fork.terminal(f"cat {folder}/f; echo {number} >> {folder}/f; pgrep -x sleep")
        assert (first.status, first.stdout) == (Status.OK, "prepared\n"), first
        assert (await fork.terminal(f"cat {folder}/f")).stdout == f"prepared\n{number}\n"


async def snapshots(fleet: Fleet) -> list[str]:
    """The names of the copies that the fleet knows."""
    found = await fleet.state.redis.zrange(fleet.state.key("snapshots"), 0, -1)
    return [str(name) for name in found]
