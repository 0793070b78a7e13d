"""One embedded fleet for the tutorial."""

import shutil
from collections.abc import AsyncIterator

import pytest_asyncio
from services import missing

from toolfleet.producer import Fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    """A private Redis and two workers with four slots each, on this machine."""
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    async with Fleet.connect(workers=2, slots=4) as connected:
        yield connected
