"""A whole embedded fleet of real processes, shared by the tests of a module."""

import shutil
from collections.abc import AsyncIterator

import pytest_asyncio
from services import missing

from toolfleet.config.profile import Profile
from toolfleet.producer import Fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    """Two workers with four slots each."""
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    profiles = {
        "default": Profile(),
        "reader": Profile(tools=("read_file",)),
        "confined": Profile(workdir="/work", warm=0),
    }
    async with Fleet.connect(workers=2, slots=4, heartbeat=0.2, lease_ttl=3.0, profiles=profiles) as connected:
        yield connected
