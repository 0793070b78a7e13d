"""What the stand-in does wrong on purpose."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel

Kind = Literal["drop_before", "drop_after", "delay", "status", "truncate"]


class Fault(BaseModel):
    """One thing that goes wrong for the next ``count`` requests that match."""

    kind: Kind
    """``drop_before`` closes the connection and does nothing, ``drop_after`` does it and then closes the connection,
    ``delay`` waits ``seconds`` first, ``status`` answers with ``status`` and does nothing, ``truncate`` ends an event
    stream after ``events`` events without a trailer."""
    path: str
    """A regular expression for the whole path behind ``/api``."""
    method: str = "POST"
    count: int = 1
    status: int = 502
    seconds: float = 0.0
    events: int = 0
    headers: dict[str, str] = {}


class Faults:
    """The faults to come, and what has been asked for."""

    def __init__(self) -> None:
        self._coming: list[Fault] = []
        self.requests: list[str] = []
        """``METHOD /path`` of each request behind ``/api``, faulty ones too, in order."""

    def add(self, fault: Fault) -> None:
        """Do this wrong from now on."""
        self._coming.append(fault)

    def clear(self) -> None:
        """Do everything right from now on."""
        self._coming.clear()

    def match(self, method: str, path: str) -> Fault | None:
        """Take the next fault for a request."""
        for fault in self._coming:
            if fault.method == method and re.fullmatch(fault.path, path):
                fault.count -= 1
                if fault.count <= 0:
                    self._coming.remove(fault)
                return fault
        return None

    def middleware(self) -> Any:
        """The middleware that makes it happen."""

        @web.middleware
        async def misbehave(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if not request.path.startswith("/api/"):
                return await handler(request)
            path = request.path.removeprefix("/api")
            self.requests.append(f"{request.method} {path}")
            fault = self.match(request.method, path)
            if fault is None:
                return await handler(request)
            if fault.kind == "status":
                return web.json_response({"detail": "as ordered"}, status=fault.status, headers=fault.headers)
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            if fault.kind == "truncate":
                request["events"] = fault.events
            if fault.kind == "drop_before":
                return _hang_up(request)
            response = await handler(request)
            return _hang_up(request) if fault.kind == "drop_after" else response

        return misbehave


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
