"""A producer that closes leaves no connection behind, however stubborn its own tasks are."""

import asyncio
from typing import Any

from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet


async def test_a_heartbeat_that_outlives_its_cancellation_is_waited_for(settings: Settings) -> None:
    """On Python 3.11 a cancellation can get lost on its way through the Redis client."""
    begun = asyncio.Event()
    async with Fleet.connect(settings.model_copy(update={"heartbeat": 0.01})) as fleet:
        state: Any = fleet.state
        pool = state.redis.connection_pool

        async def stubborn(producer: str, seconds: float) -> None:
            begun.set()
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                await state.redis.ping()

        state.producer_alive = stubborn
        await begun.wait()
    assert fleet._beat is not None
    assert fleet._beat.done()
    assert not [one for one in (*pool._available_connections, *pool._in_use_connections) if one.is_connected]
