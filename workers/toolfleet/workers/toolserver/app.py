"""The HTTP side of a ToolServer: routes, authorisation, and limits on what comes in."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toolfleet.workers.toolserver.host import Host
from toolfleet.workers.toolserver.wire import (
    EXECUTED,
    ExecuteReply,
    ExecuteRequest,
    Health,
    Problem,
    ReleaseRequest,
    ToolList,
)
from toolfleet.workers.turns import NoTurn

#: Bytes of a request's body that are read at most.
LARGEST_REQUEST = 8 * 1024 * 1024
#: Seconds until the next piece of a body must be there.
BODY_PATIENCE = 30.0

#: Makes the host when the server starts, and clears up after it.
Hosting = Callable[[], AbstractAsyncContextManager[Host]]


def create_app(hosting: Hosting, token: SecretStr | None) -> FastAPI:
    """The application; without a ``token`` it asks for none."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with hosting() as host:
            app.state.host = host
            yield

    app = FastAPI(title="toolfleet ToolServer", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, largest=LARGEST_REQUEST, patience=BODY_PATIENCE)
    app.add_exception_handler(RequestValidationError, _explain)
    guarded = [Depends(_gate(token))]
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in ((401, 403) if token is not None else ())
    }
    wrong: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (400, 408, 413, 422)}
    full: dict[int | str, dict[str, Any]] = {503: {"model": Problem}}

    @app.get("/")
    @app.get("/health")
    async def health() -> Health:
        """Whether the server lives."""
        return Health()

    @app.get("/tools", dependencies=guarded, responses=refusals)
    async def tools(request: Request) -> ToolList:
        """The tools that this server runs."""
        return ToolList(tools=[definition.schema() for definition in _host(request).catalogue])

    @app.post("/execute", dependencies=guarded, responses={**refusals, **wrong, **full})
    async def execute(body: ExecuteRequest, request: Request) -> ExecuteReply:
        """Run one call. Whoever hangs up has it stopped."""
        work = asyncio.create_task(_host(request).execute(body))
        gone = asyncio.create_task(_until_gone(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise HTTPException(499, "the caller hung up")
            return await work
        except NoTurn as error:
            raise HTTPException(503, str(error), headers={EXECUTED: "no", "Retry-After": "1"}) from None
        finally:
            work.cancel()
            gone.cancel()

    @app.post("/release", dependencies=guarded, responses={**refusals, **wrong})
    async def release(body: ReleaseRequest, request: Request) -> Health:
        """A trajectory has ended: give up what is kept for it."""
        await _host(request).release(body.trajectory_id)
        return Health()

    return app


class BodyLimit:
    """Ends requests whose body is without end, or does not come."""

    def __init__(self, app: ASGIApp, largest: int, patience: float) -> None:
        self._app = app
        self._largest = largest
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting its bytes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, whole = 0, False

        async def counting() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(self._patience):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {self._patience:g} s") from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > self._largest:
                raise HTTPException(413, f"a request may have {self._largest} bytes")
            return message

        await self._app(scope, counting, send)


def _host(request: Request) -> Host:
    host: Host = request.app.state.host
    return host


def _gate(token: SecretStr | None) -> Callable[..., Awaitable[None]]:
    """What lets a request in."""
    if token is None:

        async def open_gate() -> None:
            """Let everybody in."""

        return open_gate
    expected = token.get_secret_value().encode()
    bearer = HTTPBearer(auto_error=False)

    async def gate(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if given is None:
            raise HTTPException(401, "send the header Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"})
        if not secrets.compare_digest(given.credentials.encode("utf-8", "replace"), expected):
            raise HTTPException(403, "wrong token")

    return gate


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _explain(_: Request, error: Exception) -> Response:
    """Which fields are wrong. What they held is not repeated: it may be large, or nobody's business."""
    if not isinstance(error, RequestValidationError):
        raise error
    wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:10])
    return JSONResponse({"detail": wrong[:2000].encode("utf-8", "replace").decode()}, 422)
