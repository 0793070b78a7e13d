"""Redis pauses, resets, restarts, fills up or steps down under load: every call still runs once and ends well.

Times are short against the faults: a lease lasts 4 s, and the pauses last 10 s.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from counting import counting
from fleet_processes import worker
from private_redis import PrivateRedis, private_redis
from resetting_proxy import resetting_proxy

from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet

#: Refused commands that make sure that a fault has bitten producers and workers alike.
BITTEN = 40
PAUSE = 10


@pytest.fixture
def server() -> Iterator[PrivateRedis]:
    """A Redis of the test's own."""
    with private_redis() as made:
        yield made


@asynccontextmanager
async def one_fleet(url: str, name: str = "w1") -> AsyncIterator[Fleet]:
    """A worker and a producer."""
    with worker(name, url, "8"):
        async with Fleet.connect(Settings(redis_url=url, fleet="test", heartbeat=0.2, lease_ttl=4.0)) as fleet:
            yield fleet


async def until_refused(server: PrivateRedis, code: str) -> None:
    """Wait until ``code`` was the answer to many commands."""
    before = server.refused(code)
    while server.refused(code) < before + BITTEN:
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_redis_that_is_killed_comes_back_with_its_append_only_file(fsync: str) -> None:
    with private_redis("--appendonly", "yes", "--appendfsync", fsync) as server:
        async with one_fleet(server.url) as fleet, counting(fleet) as under_load:
            for _ in range(2):
                server.send(signal.SIGKILL)
                await asyncio.to_thread(server.start)
                await under_load.more()


async def test_a_redis_that_has_forgotten_the_last_moments() -> None:
    """As after a crash of its machine, or a failover: what had started may look as if it had not."""
    with private_redis("--appendonly", "yes") as server:
        async with one_fleet(server.url) as fleet, counting(fleet) as under_load:
            for _ in range(3):
                server.send(signal.SIGKILL)
                server.forget(20_000)
                await asyncio.to_thread(server.start)
                await under_load.more()


async def test_a_redis_that_is_busy_with_one_command(server: PrivateRedis) -> None:
    async with one_fleet(server.url) as fleet, counting(fleet):
        with server.client() as client:
            await asyncio.to_thread(client.execute_command, "DEBUG", "SLEEP", PAUSE)


async def test_a_redis_that_kills_its_connections(server: PrivateRedis) -> None:
    async with one_fleet(server.url) as fleet, counting(fleet) as under_load:
        going_on = asyncio.create_task(under_load.more())
        with server.client() as client:
            while not going_on.done():
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await asyncio.sleep(0.2)
        await going_on


async def test_a_network_that_resets_connections(server: PrivateRedis) -> None:
    with resetting_proxy(server.port) as proxy:
        async with one_fleet(f"redis://127.0.0.1:{proxy.port}/0") as fleet, counting(fleet) as under_load:
            going_on = asyncio.create_task(under_load.more())
            while not going_on.done():
                proxy.reset()
                await asyncio.sleep(random.uniform(0, 0.5))
            await going_on


@pytest.mark.parametrize(
    ("code", "option", "harmful", "harmless"),
    [("OOM", "maxmemory", "1", "0"), ("NOREPLICAS", "min-replicas-to-write", "1", "0")],
)
async def test_a_redis_that_refuses_writes(
    server: PrivateRedis, code: str, option: str, harmful: str, harmless: str
) -> None:
    async with one_fleet(server.url) as fleet, counting(fleet):
        with server.client() as client:
            client.config_set(option, harmful)
            await until_refused(server, code)
            client.config_set(option, harmless)


async def test_a_master_that_is_a_replica_for_a_while(server: PrivateRedis) -> None:
    async with one_fleet(server.url) as fleet, counting(fleet):
        with server.client() as client:
            client.replicaof("127.0.0.1", "1")  # nobody is there: it keeps what it has
            await until_refused(server, "READONLY")
            client.replicaof("NO", "ONE")


async def test_a_trajectory_that_is_closed_during_an_outage_gives_its_slot_back(server: PrivateRedis) -> None:
    async with one_fleet(server.url) as fleet:
        async with fleet.trajectory("t1") as t:
            await t.terminal("true")
            with server.client() as client:
                client.replicaof("127.0.0.1", "1")
        with server.client() as client:
            client.replicaof("NO", "ONE")
        while (await fleet.state.workers()).get("w1", {}).get("used") != "0":
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("ends", [signal.SIGSTOP, signal.SIGKILL])
async def test_nobody_is_declared_dead_because_redis_was_away(ends: signal.Signals) -> None:
    """Of two machines, so that a worker declared dead would lose its workspaces."""
    with private_redis("--appendonly", "yes") as server, worker("w1", server.url, "8"):
        async with one_fleet(server.url, "w2") as fleet:
            while len(await fleet.state.workers()) < 2:
                await asyncio.sleep(0.02)
            async with counting(fleet):
                server.send(ends)
                await asyncio.sleep(PAUSE)
                if ends is signal.SIGSTOP:
                    server.send(signal.SIGCONT)
                else:
                    await asyncio.to_thread(server.start)
