"""The bench for the scripts: see `integration.config.rig`."""

import pytest
import redis.asyncio
from integration.config.rig import Rig, settings

from toolfleet.config.answers import Holder
from toolfleet.config.contract import ToolCall


@pytest.fixture
async def rig(raw: redis.asyncio.Redis, redis_url: str) -> Rig:
    """A bench with one living producer, p1, and no worker."""
    made = Rig(raw, settings(redis_url))
    await made.producer()
    return made


@pytest.fixture
async def holder(rig: Rig) -> Holder:
    """Of t1, on w1, which has a slot more."""
    await rig.worker(slots=2)
    return await rig.hold()


@pytest.fixture
def call(rig: Rig) -> ToolCall:
    """The call c1 of t1."""
    return rig.call()
