"""An embedded fleet of real processes for a module, and for each test the predecessors' interfaces over it."""

import shutil
from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio
from http_fronts import client, serving
from services import missing

from toolfleet.config.profile import Profile
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet
from toolfleet.producer.adapters.tool_backend import FleetToolBackend
from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.executor import executor_app
from toolfleet.producer.fronts.sandbox import sandbox_app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    """Two workers with four slots each, whose workspaces stand where the predecessors' did."""
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    profiles = {
        "default": Profile(workdir="/workspace"),
        "impatient": Profile(workdir="/workspace", idle_timeout=1.0, warm=0),
    }
    settings = Settings(profiles=profiles, slots=4, heartbeat=0.2, lease_ttl=3.0)
    async with Fleet.connect(settings, workers=2) as connected:
        yield connected


@pytest_asyncio.fixture(loop_scope="module")
async def executor(fleet: Fleet) -> AsyncIterator[ToolExecutor]:
    """A started executor, over a fleet without a ToolServer."""
    async with ToolExecutor(FleetToolBackend(fleet=fleet)) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def http(executor: ToolExecutor) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the executor server."""
    async with serving(executor_app(executor)) as url, client(url) as session:
        yield session


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox_server(fleet: Fleet) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a sandbox server with four slots."""
    async with (
        ToolExecutor(FleetToolBackend(fleet=fleet)) as started,
        serving(sandbox_app(started, slots=4)) as url,
        client(url) as session,
    ):
        yield session
