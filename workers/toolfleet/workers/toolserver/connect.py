"""How a worker comes to its ToolServer: over HTTP, or inside its own process."""

import asyncio
import importlib.util
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx

from toolfleet.config.errors import SettingsError
from toolfleet.config.settings import Settings
from toolfleet.config.tool_server import IN_PROCESS
from toolfleet.workers.tools.external import ToolServer

if TYPE_CHECKING:
    from fastapi import FastAPI

#: What an application is called that has no address.
NOWHERE = "http://toolserver.invalid"


def connect(settings: Settings) -> ToolServer | None:
    """The ToolServer of a worker with these settings; None when they name none.

    Raises:
        SettingsError: it is to run in the worker's process, and the extra for it is not installed.
    """
    url, token, connections = settings.tool_server_url, settings.tool_server_token, settings.tool_server_concurrency
    if url is None:
        return None
    if url != IN_PROCESS:
        return ToolServer(url, token, connections)
    if importlib.util.find_spec("fastapi") is None:
        raise SettingsError("tool_server_url = 'inprocess' needs the extra server: pip install 'toolfleet[server]'")
    from toolfleet.workers.toolserver.app import create_app
    from toolfleet.workers.toolserver.serving import hosting

    app = create_app(lambda: hosting(settings), None)
    return ToolServer(NOWHERE, None, connections, transport=InProcess(app))


class InProcess(httpx.AsyncBaseTransport):
    """Carries requests to an application in this process, which begins with the first of them."""

    def __init__(self, app: "FastAPI") -> None:
        self._app = app
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._starting = asyncio.Lock()
        self._life: AsyncExitStack | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on."""
        async with self._starting:
            if self._life is None:
                self._life = await self._begin()
        return await self._inner.handle_async_request(request)

    async def _begin(self) -> AsyncExitStack:
        life = AsyncExitStack()
        try:
            await life.enter_async_context(self._app.router.lifespan_context(self._app))
        except (ImportError, OSError) as error:
            raise httpx.ConnectError(f"the ToolServer in this process does not start: {error}") from error
        return life

    async def aclose(self) -> None:
        """End the application."""
        life, self._life = self._life, None
        if life is not None:
            await life.aclose()
