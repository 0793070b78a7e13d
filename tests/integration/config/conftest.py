"""The bench for the scripts: see `integration.config.rig`."""

import pytest
import redis.asyncio
from integration.config.rig import Rig, settings


@pytest.fixture
async def rig(raw: redis.asyncio.Redis, redis_url: str) -> Rig:
    """A bench with one living producer, p1, and no worker."""
    made = Rig(raw, settings(redis_url))
    await made.producer()
    return made
