"""What stands before every route: who may come in, with how much, and how many at once."""

import asyncio
import hmac
import json
from collections.abc import Collection, MutableMapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Seconds after which a client that was turned away may try again.
RETRY_AFTER = 1


class Limits(BaseModel):
    """What a front bears. What is beyond is turned away with a status that says so, before it costs anything."""

    model_config = ConfigDict(frozen=True)

    max_body: int = Field(default=16 * 1024 * 1024, gt=0)
    """Bytes of one request."""
    max_bodies: int = Field(default=256 * 1024 * 1024, gt=0)
    """Bytes of all requests that are under way, together."""
    max_requests: int = Field(default=4096, gt=0)
    """Requests under way at once."""
    body_timeout: float = Field(default=60.0, gt=0)
    """Seconds in which a request must have arrived."""


class TurnedAway(Exception):
    """The request is not let in, with this status and reason."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Guard:
    """ASGI middleware: checks the bearer token, bounds requests, and hands bodies on whole."""

    def __init__(self, app: ASGIApp, limits: Limits, token: SecretStr | None, open_paths: Collection[str] = ()) -> None:
        """Make one; without ``token`` everybody is let in, with it all but those who ask for ``open_paths``."""
        self._app = app
        self._limits = limits
        self._token = token.get_secret_value().encode() if token else None
        self._open_paths = frozenset(open_paths)
        self._requests = 0
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or turn it away."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            self._check_token(scope)
            if self._requests >= self._limits.max_requests:
                raise TurnedAway(429, "too many requests at once; try again", **{"retry-after": str(RETRY_AFTER)})
            self._requests += 1
            try:
                await self._take(scope, receive, body)
                await self._app(scope, _Replay(bytes(body), receive), send)
            finally:
                self._requests -= 1
        except TurnedAway as refusal:
            await _answer(send, refusal)
        finally:
            self._bytes -= len(body)

    def _check_token(self, scope: Scope) -> None:
        if self._token is None or scope["path"] in self._open_paths:
            return
        scheme, _, given = _header(scope, b"authorization").partition(b" ")
        if scheme.lower() != b"bearer" or not given.strip():
            raise TurnedAway(
                401, "this needs the header `Authorization: Bearer TOKEN`", **{"www-authenticate": "Bearer"}
            )
        if not hmac.compare_digest(given.strip(), self._token):
            raise TurnedAway(403, "the bearer token is wrong")

    async def _take(self, scope: Scope, receive: Receive, body: bytearray) -> None:
        """Read the body into ``body``; every byte in it is counted, also when this fails."""
        announced = _header(scope, b"content-length")
        if announced.isdigit() and int(announced) > self._limits.max_body:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise TurnedAway(400, "the client went away")
                    chunk = message.get("body", b"")
                    body += chunk
                    self._bytes += len(chunk)
                    if len(body) > self._limits.max_body:
                        raise self._too_large()
                    if self._bytes > self._limits.max_bodies:
                        raise TurnedAway(429, "too many bytes at once; try again", **{"retry-after": str(RETRY_AFTER)})
                    more = message.get("more_body", False)
        except TimeoutError:
            raise TurnedAway(408, f"the request did not arrive within {self._limits.body_timeout:g} s") from None

    def _too_large(self) -> TurnedAway:
        return TurnedAway(413, f"the request is larger than {self._limits.max_body} bytes")


class _Replay:
    """Gives the body that was read already, then whatever comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _header(scope: MutableMapping[str, Any], name: bytes) -> bytes:
    return next((bytes(value) for key, value in scope["headers"] if key == name), b"")


async def _answer(send: Send, refusal: TurnedAway) -> None:
    body = json.dumps({"success": False, "error": refusal.reason}).encode()
    # What is left of a body that was not read is not the next request.
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    raw = [(key.encode(), value.encode()) for key, value in (headers | refusal.headers).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
