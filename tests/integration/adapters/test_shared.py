"""The fleet of a process whose code names none."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from services import missing

from toolfleet.config.errors import RedisUnavailable
from toolfleet.config.settings import Settings, load
from toolfleet.producer.adapters.async_tool_context import AsyncToolContext
from toolfleet.producer.adapters.handler import tool_handler
from toolfleet.producer.adapters.rollouts import RolloutConfig
from toolfleet.producer.adapters.shared import SHARED, Shared
from toolfleet.producer.adapters.tool_context import ToolContext
from toolfleet.producer.embedded import find_redis_server


def _settings() -> Settings:
    return load(slots=1)


def test_threads_that_come_first_share_one_fleet() -> None:
    """Defect 34: two that come at once must not make two."""
    if find_redis_server() is None:
        missing("redis-server")
    shared = Shared(_settings)
    try:
        assert shared.current() is None
        with ThreadPoolExecutor(8) as threads:
            assert len({id(rollouts) for rollouts in threads.map(lambda _: shared.get(), range(8))}) == 1
        with pytest.raises(ValueError, match="in use already"):
            shared.configure(RolloutConfig(profile="swe"))
        shared.configure(RolloutConfig())
    finally:
        shared.close()
    assert shared.current() is None
    shared.close()


async def test_a_fleet_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLFLEET_REDIS_URL", "unix:///nowhere/redis.sock")
    assert '"status": "degraded", "reason": "RedisUnavailable"' in await tool_handler()("terminal", {}, "a")
    ctx = AsyncToolContext("a")
    assert (await ctx.terminal("true"))["status"] == "degraded"
    assert ctx.masked
    with pytest.raises(RedisUnavailable):
        ToolContext("a").terminal("true")
    assert SHARED.current() is None
