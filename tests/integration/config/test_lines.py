"""Connections kept for one command after another: no answer ever meets another question."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from toolfleet.config import connection
from toolfleet.config.connection import CONNECTIONS, OUTAGES
from toolfleet.config.lines import Lines


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    made = connection.client(redis_url)
    yield made
    await made.aclose()


async def test_everybody_gets_the_answer_to_their_own_question(client: redis.asyncio.Redis) -> None:
    lines = Lines(client)
    words = [f"word-{n}".encode() for n in range(5 * CONNECTIONS)]
    for _ in range(3):
        assert await asyncio.gather(*(lines.ask("ECHO", word) for word in words)) == words


async def test_one_question_after_another_goes_over_one_connection(client: redis.asyncio.Redis) -> None:
    lines = Lines(client)
    assert len({await lines.ask("CLIENT", "ID") for _ in range(20)}) == 1


async def test_who_stops_waiting_leaves_no_answer_for_the_next(client: redis.asyncio.Redis) -> None:
    lines = Lines(client)
    for _ in range(3):
        waiting = asyncio.create_task(lines.ask("BLPOP", "nothing-there", 0))
        while (await client.info("clients"))["blocked_clients"] == 0:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await client.rpush("nothing-there", "late")
        assert await lines.ask("ECHO", "mine") == b"mine"
        await client.delete("nothing-there")


async def test_an_error_is_the_askers_alone(client: redis.asyncio.Redis) -> None:
    lines = Lines(client)
    with pytest.raises(redis.exceptions.ResponseError):
        await lines.ask("NO-SUCH-COMMAND")
    assert await lines.ask("ECHO", "mine") == b"mine"


async def test_a_crowd_gives_back_what_is_not_kept(client: redis.asyncio.Redis) -> None:
    lines = Lines(client, keep=2)
    await asyncio.gather(*(lines.ask("PING") for _ in range(3 * CONNECTIONS)))
    async with asyncio.timeout(30):
        pool: Any = client.connection_pool
        held = [await pool.get_connection() for _ in range(CONNECTIONS - 2)]
    for one in held:
        await pool.release(one)


async def test_a_connection_that_was_cut_is_replaced(client: redis.asyncio.Redis) -> None:
    lines = Lines(client)
    number = await lines.ask("CLIENT", "ID")
    await client.client_kill_filter(_id=number)
    with pytest.raises(OUTAGES):
        await lines.ask("PING")
    assert await lines.ask("ECHO", "mine") == b"mine"


async def test_who_never_answers_is_an_outage(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(listen, tmp_path / "silent")
    pool = redis.asyncio.ConnectionPool(
        connection_class=redis.asyncio.UnixDomainSocketConnection, path=str(tmp_path / "silent"), socket_timeout=0.2,
        protocol=2, driver_info=None,
    )  # fmt: skip
    async with server, redis.asyncio.Redis.from_pool(pool) as client:
        with pytest.raises(OUTAGES):
            await Lines(client).ask("PING")
        assert asked.is_set()
