"""A master that dies or steps down behind Sentinel: the fleet follows to its replica."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from counting import counting
from fleet_processes import free_port, wait_until, worker
from private_redis import PrivateRedis, private_redis

from toolfleet.config.celery_app import make_app
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet

SECRET = "s3cret/with:odd@signs"  # noqa: S105 - of a Redis that lives as long as a test
ENCODED = "s3cret%2Fwith%3Aodd%40signs"


class Group:
    """A master with a replica and a Sentinel that watches them; all of Redis needs a password."""

    def __init__(self, stack: ExitStack) -> None:
        self.master = stack.enter_context(private_redis(password=SECRET))
        replica = private_redis("--replicaof", f"127.0.0.1 {self.master.port}", password=SECRET)
        self.replica = stack.enter_context(replica)
        watches = f"""
            sentinel monitor fleet 127.0.0.1 {self.master.port} 1
            sentinel auth-pass fleet {SECRET}
            sentinel down-after-milliseconds fleet 1000
            sentinel failover-timeout fleet 10000
        """
        self.sentinel = stack.enter_context(private_redis(sentinel_of=watches))
        # The first of the two is never there: who asks must go on to the next.
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{self.sentinel.port}"
        self.url = f"sentinel://:{ENCODED}@{hosts}/fleet/1"
        wait_until(lambda: self.role(self.replica).get("master_link_status") == "up")
        wait_until(self._sees_replica)

    def role(self, one: PrivateRedis) -> dict[str, str]:
        """What a Redis says about its part in replication; nothing when Sentinel has it end its connections."""
        found: dict[str, str] = {}
        with contextlib.suppress(redis.exceptions.ConnectionError), one.client() as client:
            found = client.info("replication")
        return found

    def fail_over(self) -> None:
        """Have the Sentinel swap master and replica."""
        with self.sentinel.client() as client:
            client.execute_command("SENTINEL", "FAILOVER", "fleet")

    def _sees_replica(self) -> bool:
        with self.sentinel.client() as client:
            return bool(client.sentinel_slaves("fleet"))


@pytest.fixture
def group() -> Iterator[Group]:
    """One of the test's own."""
    with ExitStack() as stack:
        yield Group(stack)


@pytest.mark.parametrize("dies", [True, False])
async def test_the_fleet_follows_to_the_new_master(
    group: Group, dies: bool, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with worker("w1", group.url, "8") as only:
        settings = Settings(redis_url=group.url, fleet="test", heartbeat=0.2, lease_ttl=4.0)
        async with Fleet.connect(settings) as fleet, counting(fleet):
            if dies:
                group.master.send(signal.SIGKILL)
            else:
                group.fail_over()
            while group.role(group.replica).get("role") != "master":
                await asyncio.sleep(0.05)
        assert only.poll() is None
        arguments = Path(f"/proc/{only.pid}/cmdline").read_text()
        # What Flower shows of a worker, its broker included.
        shown = await asyncio.to_thread(make_app(group.url, "test").control.inspect(timeout=10, limit=1).stats)
        assert shown
    for logged in (*capfd.readouterr(), caplog.text, arguments, str(shown)):
        assert SECRET not in logged
        assert ENCODED not in logged
