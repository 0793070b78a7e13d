"""Fixtures for every test: a real Redis of its own, and a check that nothing is left behind in it.

A missing service skips a test on a laptop and fails it in CI.
"""

import importlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis
import redis.asyncio
from redis_options import debugging
from services import missing
from side_by_side import arrange

from toolfleet.config import connection
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer.embedded import find_redis_server

if TYPE_CHECKING:
    from standins.morph.process import StandIn

pytest.register_assert_rewrite("toolfleet.backends.conformance")
# How long an example takes says something of the machine, nothing of us.
hypothesis.settings.register_profile(
    "toolfleet", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("toolfleet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests may run beside which."""
    for item in items:
        arrange(item)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's own shell reaches a test."""
    for variable in list(os.environ):
        if variable.startswith("TOOLFLEET_"):
            monkeypatch.delenv(variable)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a private Redis that lives as long as the session."""
    server = find_redis_server()
    if server is None:
        missing("redis-server")
    with tempfile.TemporaryDirectory(prefix="toolfleet-test-") as folder:
        sock = Path(folder) / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(sock), "--save", "", "--dir", folder, "--loglevel", "warning"]
        process = subprocess.Popen([str(server), *options, *debugging(str(server))])
        try:
            while not sock.exists():
                assert process.poll() is None, "redis-server did not start"
                time.sleep(0.01)
            yield f"unix://{sock}"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="session")
def docker_url() -> Iterator[str]:
    """The URL of a Docker engine that has the tests' images."""
    try:
        docker_engine = importlib.import_module("docker_engine")
    except ImportError:
        missing("the Docker SDK: pip install 'toolfleet[docker]'")
    with docker_engine.engine() as url:
        yield url


@pytest.fixture(scope="session")
def morph_cloud() -> "Iterator[StandIn]":
    """A stand-in for MorphCloud that lives as long as the session."""
    for module in ("aiohttp", "asyncssh", "morphcloud"):
        if importlib.util.find_spec(module) is None:
            missing(f"{module}: pip install '.[dev,morph]'")
    for program in ("bwrap", "nsenter"):
        if shutil.which(program) is None:
            missing(program)
    process = importlib.import_module("standins.morph.process")
    with process.running() as cloud:
        yield cloud


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """An empty Redis; afterwards every key that is left must have a TTL."""
    client = redis.Redis.from_url(redis_server)
    client.flushall()
    yield redis_server
    immortal = [key for key in client.scan_iter("*") if client.ttl(key) == -1]
    client.flushall()
    client.close()
    assert not immortal, f"keys without TTL: {immortal}"


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """Settings with short times, on the test's own Redis."""
    return Settings(redis_url=redis_url, fleet="test", heartbeat=0.2, lease_ttl=4.0)


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A plain connection to the test's Redis."""
    client = connection.client(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def state(raw: redis.asyncio.Redis, settings: Settings) -> FleetState:
    """The scripts of the fleet ``test``."""
    return FleetState(raw, settings)
