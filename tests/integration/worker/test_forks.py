"""Groups of trajectories that start from one prepared workspace, and what is left of them."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from fleet_processes import worker

from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.local.snapshots import Snapshots
from toolfleet.config.answers import text
from toolfleet.config.contract import Status
from toolfleet.config.errors import ForkFailed, InvalidCall
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet, SyncFleet, Trajectory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="saving a sandbox of bubblewrap needs root")

Start = Callable[..., AbstractContextManager[Popen[bytes]]]


def profile(**fields: Any) -> dict[str, str]:
    """Variables of a worker whose only profile has these fields, and no warm sandboxes."""
    return {"TOOLFLEET_PROFILES": json.dumps({"default": {"warm": 0, **fields}})}


@pytest.fixture
def run() -> Iterator[Path]:
    """The folder for sandboxes of a machine; a unix socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder) / "run"


@pytest.fixture
def host(redis_url: str, run: Path) -> Start:
    """Starts workers that share a machine."""

    def start(name: str, slots: int = 4, **env: str) -> AbstractContextManager[Popen[bytes]]:
        return worker(name, redis_url, str(slots), **{"TOOLFLEET_RUNTIME_DIR": str(run), **profile(), **env})

    return start


@pytest.fixture
async def nothing_left(state: FleetState, run: Path) -> AsyncIterator[None]:
    """In the end there are no snapshots, in Redis or on the disk, which other fleets of the machine may use."""
    yield
    assert await left_in_redis(state) == []
    calls = await state.redis.keys("*:call:*")
    made = [text(name) for key in calls if (name := await state.redis.hget(key, "snapshot"))]
    assert made
    assert not [name for name in made if (Snapshots()._here / name).exists()]


async def left_in_redis(state: FleetState) -> list[str]:
    """Keys of snapshots."""
    found = [key.decode() async for key in state.redis.scan_iter("*")]
    return [key for key in found if key.split(":")[2] in ("snapshots", "snapshot", "forks")]


async def until_dropped(state: FleetState) -> None:
    """Wait until no snapshot is known; while the fleet lives, for a worker does it."""
    while await left_in_redis(state):
        await asyncio.sleep(0.02)


async def snapshots(state: FleetState) -> list[str]:
    """The names of those that Redis knows."""
    found: Any = await state.redis.zrange(state.key("snapshots"), 0, -1)
    return [name.decode() for name in found]


async def until_saving(state: FleetState) -> str:
    """Wait until a workspace is being saved; the name of the snapshot."""
    while not (names := await snapshots(state)):
        await asyncio.sleep(0.001)
    return names[0]


@asynccontextmanager
async def closing(*trajectories: Trajectory) -> AsyncIterator[None]:
    """Close all of them at the end."""
    try:
        yield
    finally:
        await asyncio.gather(*(t.close() for t in trajectories))


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("storage", ["memory", "disk"])
async def test_sixteen_go_their_own_way_from_where_one_stands(
    settings: Settings, host: Start, state: FleetState, run: Path, storage: str
) -> None:
    """On half as many slots; the one goes on, and nothing of it runs in the others."""
    with host("w1", 9, **profile(storage=storage, disk_mib=64)):
        async with Fleet.connect(settings) as fleet, fleet.trajectory(sweep="group") as t:
            await t.terminal("mkdir /work; echo prepared > /work/f; (setsid sleep 9001 &)")
            before = asyncio.create_task(t.terminal("sleep 0.2; echo before > /work/order"))
            await asyncio.sleep(0)
            forking = asyncio.create_task(t.fork(16))
            await asyncio.sleep(0)
            after = asyncio.create_task(t.terminal("echo after > /work/order; echo changed > /work/f"))
            forks = await forking
            assert len({t.id, *(fork.id for fork in forks)}) == 17
            assert {fork.sweep for fork in forks} == {"group"}

            async def go(number: int, fork: Trajectory) -> None:
                async with fork:
                    first = await fork.terminal(f"cat /work/f /work/order; echo {number} >> /work/f; pgrep sleep")
                    assert (first.stdout, first.status) == ("prepared\nbefore\n", Status.OK)
                    again = await fork.terminal("cat /work/f")
                    assert (again.stdout, again.workspace_generation) == (f"prepared\n{number}\n", 1)

            await asyncio.gather(*(go(number, fork) for number, fork in enumerate(forks)))
            await asyncio.gather(before, after)
            assert (await t.terminal("cat /work/f /work/order; pgrep -c sleep")).stdout == "changed\nafter\n1\n"
            await until_dropped(state)
    assert await BubblewrapBackend(run).list() == []


@pytest.mark.usefixtures("nothing_left")
async def test_a_fork_of_a_fork_and_of_one_that_never_ran_anything(
    settings: Settings, host: Start, state: FleetState
) -> None:
    with host("w1", 5):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            (empty,) = await t.fork(1)
            async with closing(empty):
                assert (await empty.terminal("echo 1 >> /root/f; cat /root/f")).stdout == "1\n"
                (second,) = await empty.fork(1)
                (third,) = await second.fork(1)  # whose first call this is
                async with closing(second, third):
                    assert (await third.terminal("echo 3 >> /root/f; cat /root/f")).stdout == "1\n3\n"
                    assert (await second.terminal("cat /root/f")).stdout == "1\n"
            for n in (0, 1001):
                with pytest.raises(InvalidCall, match="1 to 1000"):
                    await t.fork(n)
            await until_dropped(state)


@pytest.mark.usefixtures("nothing_left")
def test_without_async(settings: Settings, host: Start) -> None:
    with host("w1"), SyncFleet.connect(settings) as fleet, fleet.trajectory() as t:
        t.terminal("echo prepared > /root/f")
        forks = t.fork(2)
        assert [fork.terminal("cat /root/f").stdout for fork in forks] == ["prepared\n"] * 2
        for fork in forks:
            fork.close()
        while fleet._wait(left_in_redis(fleet._fleet.state)):
            pass


@pytest.mark.usefixtures("nothing_left")
async def test_a_copy_that_is_gone_is_told_once_and_is_never_an_empty_workspace(
    settings: Settings, host: Start, state: FleetState
) -> None:
    with host("w1"):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            await t.terminal("echo prepared > /root/f")
            fork, late = await t.fork(2)
            async with closing(fork, late):
                assert (await fork.terminal("cat /root/f")).stdout == "prepared\n"
                Snapshots().drop(*await snapshots(state))
                told = await late.terminal("cat /root/f")
                assert (told.status, told.executed, told.fault) == (Status.LOST, "no", "infrastructure")
                assert "copy" in str(told.error) or "snapshot" in str(told.error)
                after = await late.terminal("ls -A /root")
                assert (after.status, after.stdout, after.workspace_generation) == (Status.OK, "", 2)
                assert (await fork.terminal("cat /root/f")).stdout == "prepared\n"
            await until_dropped(state)


@pytest.mark.usefixtures("nothing_left")
async def test_a_fork_that_loses_its_sandbox_before_anything_ran_in_it_is_told(
    settings: Settings, host: Start, state: FleetState, run: Path
) -> None:
    """The copy was worth something."""
    with host("w1"):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            (fork,) = await t.fork(1)
            async with closing(fork):
                await fork.call("terminal", {"command": "true"})
                key = state.key("lease", fork.id)
                assert await state.redis.hget(key, "origin") is None
                assert await state.redis.hget(key, "used") == b"1"
                mine = json.loads(await state.redis.hget(key, "sandbox") or "")["id"]
                backend = BubblewrapBackend(run)
                (ref,) = [ref for ref in await backend.list() if ref.id == mine]
                await backend.destroy(ref)
                assert (await fork.terminal("true")).status is Status.LOST
                assert (await fork.terminal("true")).status is Status.OK
            await until_dropped(state)


@pytest.mark.usefixtures("nothing_left")
async def test_forks_that_are_closed_unused_let_the_copy_go(settings: Settings, host: Start, state: FleetState) -> None:
    with host("w1"):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            forks = await t.fork(3)
            assert await left_in_redis(state)
            await forks[0].close()
            await forks[1].close()
            assert (await forks[2].terminal("true")).status is Status.OK
            await forks[2].close()
            await until_dropped(state)


@pytest.mark.usefixtures("nothing_left")
async def test_a_producer_that_is_gone_wants_no_copies(settings: Settings, host: Start, state: FleetState) -> None:
    """It said nothing of its forks; its heartbeat tells."""
    with host("w1", TOOLFLEET_ORPHAN_TIMEOUT="0"):
        async with Fleet.connect(settings) as fleet:
            t = fleet.trajectory()
            (never_used,) = await t.fork(1)
            never_used._closed = True  # as when the process is killed: nobody closes it
            (name,) = await snapshots(state)
        await state.redis.zadd(state.key("snapshots"), {name: 1}, xx=True)  # somebody looks
        await until_dropped(state)


@pytest.mark.usefixtures("nothing_left")
async def test_a_fork_that_is_cancelled_leaves_no_copy(settings: Settings, host: Start, state: FleetState) -> None:
    with host("w1", **profile(disk_mib=512)):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            await t.terminal("head -c 200M /dev/zero | tr '\\0' x > /root/much")
            forking = asyncio.create_task(t.fork(2))
            await until_saving(state)
            forking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await forking
            await until_dropped(state)
            assert (await t.terminal("stat -c %s /root/much")).stdout == f"{200 * 2**20}\n"


@pytest.mark.usefixtures("nothing_left")
async def test_a_worker_that_dies_while_it_saves_is_replaced_and_leaves_nothing(
    settings: Settings, host: Start, state: FleetState, run: Path
) -> None:
    """The next holder saves anew; its forks have the files as they were after the calls before."""
    env = profile(disk_mib=512)
    with host("w1", **env) as first, host("w2", **env) as second:
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            while len(await state.workers()) < 2:
                await asyncio.sleep(0.02)
            made = await t.terminal("head -c 300M /dev/zero | tr '\\0' x > /root/much; echo kept > /root/f")
            forking = asyncio.create_task(t.fork(2))
            queued = asyncio.create_task(t.terminal("echo later > /root/f"))
            name = await until_saving(state)
            {"w1": first, "w2": second}[made.worker_id].send_signal(signal.SIGKILL)
            forks = await forking
            assert {fork.origin.snapshot for fork in forks if fork.origin}.isdisjoint({name})
            async with closing(*forks):
                for fork in forks:
                    seen = await fork.terminal("cat /root/f; stat -c %s /root/much")
                    assert seen.stdout == f"kept\n{300 * 2**20}\n"
                assert (await queued).status is Status.OK
                assert (await t.terminal("cat /root/f")).stdout == "later\n"
            await until_dropped(state)
    assert await BubblewrapBackend(run).list() == []


@pytest.mark.usefixtures("nothing_left")
async def test_workers_die_while_forks_begin(settings: Settings, host: Start, state: FleetState, run: Path) -> None:
    """Nothing had started in them: they begin with another worker, from the same copy."""
    env = profile(disk_mib=128)
    with host("w1", 12, **env) as first, host("w2", 12, **env) as second:
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            while len(await state.workers()) < 2:
                await asyncio.sleep(0.02)
            made = await t.terminal("seq 200000 > /root/much; echo kept > /root/f")
            forks = await t.fork(8)
            async with closing(*forks):
                begun = [asyncio.create_task(fork.terminal("cat /root/f; wc -l < /root/much")) for fork in forks]
                while not [b for b in begun if b.done()]:
                    await asyncio.sleep(0.005)
                dies = "w2" if made.worker_id == "w1" else "w1"
                {"w1": first, "w2": second}[dies].send_signal(signal.SIGKILL)
                for result in await asyncio.gather(*begun):
                    lost = result.status is Status.LOST
                    assert lost or (result.status, result.stdout) == (Status.OK, "kept\n200000\n")
                    assert not lost or result.executed == "unknown"
            await until_dropped(state)
    backend = BubblewrapBackend(run)
    for ref in await backend.list():  # made by the dead one and noted nowhere: their runners would end them in a minute
        await backend.destroy(ref)


@pytest.mark.usefixtures("nothing_left")
async def test_a_workspace_that_is_lost_is_told_by_the_fork_of_it(
    settings: Settings, host: Start, state: FleetState, run: Path
) -> None:
    with host("w1"):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            await t.terminal("true")
            backend = BubblewrapBackend(run)
            for ref in await backend.list():
                await backend.destroy(ref)
            with pytest.raises(ForkFailed) as failed:
                await t.fork(2)
            assert failed.value.result.status is Status.LOST
            assert (await t.terminal("true")).workspace_generation == 2
            await until_dropped(state)


async def test_a_fleet_that_ends_at_once_leaves_no_copy() -> None:
    """Its Redis goes with it, and nobody else knows of the copy."""
    profiles = {"default": Profile(warm=0)}
    async with Fleet.connect(workers=2, slots=2, profiles=profiles) as fleet, fleet.trajectory() as t:
        used, _ = await t.fork(2)
        assert used.origin is not None
        archive = Snapshots().path(used.origin.snapshot)
        assert (await used.terminal("true")).status is Status.OK
    assert not archive.exists()
