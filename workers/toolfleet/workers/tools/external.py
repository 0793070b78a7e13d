"""External tools: what a worker says to the ToolServer, and what it makes of the answer."""

import asyncio
import json
import logging
from typing import Any

import httpx
from pydantic import SecretStr, ValidationError

from toolfleet.config.tools import Arguments, Context, Definition
from toolfleet.workers.tools.base import NotRun, OutsideTool, Shown, Stopped, Unanswered
from toolfleet.workers.toolserver.wire import EXECUTED, ExecuteReply, ExecuteRequest, NamedCall, ReleaseRequest

log = logging.getLogger(__name__)

#: Seconds until a connection must be there.
CONNECT_TIMEOUT = 5.0
#: Seconds beyond a call's deadline until its answer is given up; by then the server has stopped the tool itself.
GRACE = 5.0
#: Seconds that a connection nobody uses is kept: fewer than servers keep theirs, which must not close one just taken.
KEEPALIVE = 3.0
#: Bytes of an answer.
LARGEST_ANSWER = 16 * 1024 * 1024
#: Bytes of an answer's metadata that a result keeps.
LARGEST_DETAIL = 8 * 1024


class ToolServer:
    """The ToolServer, as a worker sees it. A call is sent once; one that was provably not run may be sent again."""

    def __init__(
        self,
        url: str,
        token: SecretStr | None,
        connections: int,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE
        )
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, limits=limits, transport=transport, trust_env=False, follow_redirects=False
        )
        self._served: set[str] = set()

    def tool(self, definition: Definition[Any]) -> OutsideTool[Any]:
        """The external tool ``definition``."""

        async def perform(arguments: Arguments, context: Context) -> Shown:
            return await self.execute(definition.name, arguments, context)

        return OutsideTool(definition, perform)

    async def execute(self, name: str, arguments: Arguments, context: Context) -> Shown:
        """Have the ToolServer run a tool.

        Raises:
            NotRun, Unanswered, Stopped: see there.
        """
        given = arguments.model_dump(mode="json", by_alias=True, exclude={"timeout"}, exclude_unset=True)
        call = NamedCall(name=name, arguments=given, uniq_id=context.call_id)
        request = ExecuteRequest(tool=call, trajectory_id=context.trajectory_id, timeout_s=max(context.timeout, 0.1))
        if context.trajectory_id is not None:
            self._served.add(context.trajectory_id)
        try:
            async with asyncio.timeout(context.timeout + GRACE):
                status, headers, body = await self._post("/execute", request.model_dump_json(), context.timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotRun(f"the ToolServer cannot be reached: {_kind(error)}") from None
        except TimeoutError:
            raise Unanswered(f"the ToolServer did not answer within {context.timeout + GRACE:.3g} s") from None
        except httpx.HTTPError as error:
            raise Unanswered(f"the connection to the ToolServer broke: {_kind(error)}") from None
        return _shown(status, headers, body)

    async def left(self, trajectory_id: str, *, ended: bool) -> None:
        """A trajectory is this worker's no more; when it has ``ended``, the ToolServer may forget it."""
        if trajectory_id not in self._served:
            return
        self._served.discard(trajectory_id)
        if not ended:
            return
        try:
            async with asyncio.timeout(GRACE):
                await self._post("/release", ReleaseRequest(trajectory_id=trajectory_id).model_dump_json(), GRACE)
        except (TimeoutError, httpx.HTTPError) as error:
            # What it keeps for the trajectory it drops by itself, when nobody uses it.
            log.info("the ToolServer was not told that %s ended: %s", trajectory_id, _kind(error))

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _post(self, path: str, content: str, patience: float) -> tuple[int, httpx.Headers, bytes]:
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT, pool=patience)
        headers = {"Content-Type": "application/json"}
        async with self._client.stream("POST", path, content=content, headers=headers, timeout=timeout) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LARGEST_ANSWER:
                    raise httpx.RemoteProtocolError(f"an answer of more than {LARGEST_ANSWER} bytes")
            return response.status_code, response.headers, bytes(body)


def _shown(status: int, headers: httpx.Headers, body: bytes) -> Shown:
    if status != httpx.codes.OK:
        raise _refusal(status, headers, body)
    try:
        reply = ExecuteReply.model_validate_json(body)
    except ValidationError:
        raise Unanswered("the ToolServer answered what no ToolServer answers") from None
    if reply.metadata.get("timed_out"):
        raise Stopped(reply.error)
    detail = reply.metadata if len(json.dumps(reply.metadata)) <= LARGEST_DETAIL else {"metadata": "too large"}
    if reply.success:
        return Shown(reply.output, 0, detail=detail)
    error = reply.error or "the tool failed without a word"
    return Shown(reply.output or error, 1, error, detail=detail)


def _refusal(status: int, headers: httpx.Headers, body: bytes) -> NotRun | Unanswered:
    said = f"the ToolServer answered {status}: {_reason(body)}"
    if headers.get(EXECUTED) == "no":
        return NotRun(said)
    if httpx.codes.is_client_error(status):
        # It does not take this request: a wrong token, a wrong address, a body that is too large.
        return NotRun(said, again=False)
    return Unanswered(said)


def _reason(body: bytes) -> str:
    try:
        said = json.loads(body)
        return str(said["detail"])[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "no reason given"


def _kind(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
