"""A worker is cut off from Redis and from everybody else, for longer than its leases last, and comes back."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from fleet_processes import until_running, worker

from chaos.network import Machine, Network, network
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.channel import Channel, unix
from toolfleet.config.contract import Fault, Status
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet, ToolResult, Trajectory

#: No warm sandboxes: those that are there belong to trajectories.
COLD = {"TOOLFLEET_PROFILES__DEFAULT__WARM": "0"}
NAMES = ("w1", "w2")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: those of unix sockets are bounded."""
    with tempfile.TemporaryDirectory(prefix="tf-") as made:
        yield Path(made)


@pytest.fixture
def net(folder: Path) -> Iterator[Network]:
    """A Redis on a switch."""
    with network(folder) as made:
        yield made


class Site:
    """Two machines with a worker each, and a producer beside the Redis."""

    def __init__(self, net: Network, fleet: Fleet, machines: dict[str, Machine], folder: Path) -> None:
        self.net = net
        self.fleet = fleet
        self.machines = machines
        self.backends = {name: BubblewrapBackend(folder / name) for name in machines}
        self.held_twice: set[bytes | str] = set()
        """Trajectories that were seen in the hands of both workers."""

    async def watch(self) -> None:
        """Look for slots held twice, for as long as it runs; the intersection is taken in one step."""
        keys = [self.fleet.state.key("leases", name) for name in NAMES]
        while True:
            self.held_twice |= set(await self.fleet.state.redis.sinter(keys))
            await asyncio.sleep(0.01)

    async def until_serving(self, *names: str) -> None:
        """Wait until these workers, and no others, are alive in the eyes of Redis."""
        while set(await self.fleet.state.workers()) != set(names):
            await asyncio.sleep(0.02)

    async def epochs(self) -> dict[str, list[list[int]]]:
        """For each worker, the epochs that the runners of its machine have served under, sorted."""
        return {name: sorted([await epochs(c) for c in await self._runners(name)]) for name in NAMES}

    async def knowing(self, call_id: str) -> int:
        """How many runners of both machines have seen a call."""
        states = []
        for channel in [channel for name in NAMES for channel in await self._runners(name)]:
            states.append(await channel.query(call_id))
            await channel.detach()
        return sum(state != "unknown" for state in states)

    async def sandboxes(self, name: str) -> int:
        """How many sandboxes a machine has."""
        return len(await self.backends[name].list())

    async def _runners(self, name: str) -> list[Channel]:
        return [Channel(unix(ref.address), ref.id) for ref in await self.backends[name].list()]


async def epochs(channel: Channel) -> list[int]:
    """Those that a runner was claimed under; 0 stands for whoever claims nothing, as we do."""
    try:
        reply = await channel._ask(await channel._connected(), {"op": "hello", "epoch": 0})
        return [epoch for epoch in reply["epochs"] if epoch]
    finally:
        await channel.detach()


@asynccontextmanager
async def site(net: Network, folder: Path, **env: str) -> AsyncIterator[Site]:
    """Everything up, and everything checked for leftovers afterwards."""
    settings = Settings(redis_url=net.here, fleet="test", heartbeat=0.2, lease_ttl=4.0)
    with ExitStack() as stack:
        machines = {name: net.machine() for name in NAMES}
        for name, machine in machines.items():
            own = {"TOOLFLEET_RUNTIME_DIR": str(folder / name), **COLD, **env}
            stack.enter_context(worker(name, net.url, "8", within=machine.within, **own))
        async with Fleet.connect(settings) as fleet:
            made = Site(net, fleet, machines, folder)
            await made.until_serving(*NAMES)
            watching = asyncio.create_task(made.watch())
            try:
                yield made
            finally:
                watching.cancel()
            assert not made.held_twice
            for t in list(fleet._open.values()):
                await t.close()
            while any([await made.sandboxes(name) for name in NAMES]):
                await asyncio.sleep(0.05)
            assert not [key async for key in fleet.state.redis.scan_iter("*:calls:*")]
            assert fleet.late_results == 0


async def placed(site: Site, many: int) -> dict[str, list[Trajectory]]:
    """Trajectories that have begun, by the worker that holds them; each worker holds some."""
    found: dict[str, list[Trajectory]] = {name: [] for name in NAMES}
    for number in range(many):
        t = site.fleet.trajectory(f"t{number}")
        found[(await t.terminal("echo begun > /tmp/f")).worker_id].append(t)
    assert all(found.values())
    return found


async def test_a_worker_that_is_cut_off_loses_its_trajectories_once(net: Network, folder: Path) -> None:
    async with site(net, folder) as here:
        by = await placed(here, 6)
        busy, *idle = by["w1"]
        running = await until_running(here.fleet, busy, "echo ran >> /tmp/f; sleep 1; cat /tmp/f")
        queued = [asyncio.create_task(busy.terminal(f"echo {n} >> /tmp/g; cat /tmp/g")) for n in range(3)]
        net.cut(here.machines["w1"])

        told = await running
        assert (told.status, told.fault, told.executed) == (Status.LOST, Fault.INFRASTRUCTURE, "unknown")
        went_on = await asyncio.gather(*queued)
        assert [(r.status, r.worker_id, r.workspace_generation) for r in went_on] == [(Status.OK, "w2", 2)] * 3
        assert went_on[-1].stdout == "0\n1\n2\n"
        for t in idle:
            first, second = await t.terminal("cat /tmp/f"), await t.terminal("cat /tmp/f")
            assert (first.status, first.executed) == (Status.LOST, "no")
            assert (second.status, second.exit_code, second.lease_epoch) == (Status.OK, 1, 2)
        for t in by["w2"]:
            assert (await t.terminal("cat /tmp/f")).stdout == "begun\n"
        # What w1 still has was served under the first epoch alone, and no runner of one machine knows another's calls.
        assert await here.epochs() == {"w1": [[1]] * len(by["w1"]), "w2": [[1]] * len(by["w2"]) + [[2]] * len(by["w1"])}
        assert [await here.knowing(r.call_id) for r in (told, *went_on)] == [1, 1, 1, 1]

        net.heal(here.machines["w1"])
        await here.until_serving(*NAMES)
        while await here.sandboxes("w1"):
            await asyncio.sleep(0.02)
        after = await asyncio.gather(*(t.terminal("cat /tmp/g /tmp/f") for t in by["w1"]))
        assert {(r.status, r.worker_id, r.lease_epoch) for r in after} == {(Status.OK, "w2", 2)}
        # The result that w1 had for the call it could not report was refused.
        [(state, standing)] = await here.fleet.state.look([told.call_id])
        assert (state, ToolResult.model_validate_json(standing or b"")) == ("done", told)
        assert (await here.fleet.trajectory("new").terminal("echo on")).worker_id == "w1"


async def test_a_cut_shorter_than_a_lease_costs_nothing(net: Network, folder: Path) -> None:
    async with site(net, folder, TOOLFLEET_LEASE_TTL="30") as here:
        by = await placed(here, 2)
        cut = by["w1"][0]
        running = await until_running(here.fleet, cut, "sleep 1; echo ran >> /tmp/f; cat /tmp/f")
        net.cut(here.machines["w1"])
        waiting: list[asyncio.Task[ToolResult]] = [asyncio.create_task(cut.terminal(f"echo {n}")) for n in range(3)]
        other = by["w2"][0]
        assert (await other.terminal("sleep 1; cat /tmp/f")).stdout == "begun\n"
        net.heal(here.machines["w1"])
        result = await running
        assert (result.status, result.stdout) == (Status.OK, "begun\nran\n")
        rest = await asyncio.gather(*waiting)
        assert [(r.stdout, r.lease_epoch) for r in rest] == [("0\n", 1), ("1\n", 1), ("2\n", 1)]
