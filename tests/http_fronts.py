"""The HTTP fronts on a real port, and clients for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from fastapi import FastAPI

from toolfleet.producer.fronts.serve import listen, server


@contextlib.asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """Serve ``app`` on a free port of this machine; its URL."""
    with listen("127.0.0.1", 0) as listening:
        running = server(app, patience=5.0)
        task = asyncio.create_task(running.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running.should_exit = True
            await task


@contextlib.asynccontextmanager
async def client(url: str, token: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the front at ``url``, with as many connections as it likes."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        yield session
