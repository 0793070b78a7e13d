"""The host's end of the channel to a runner: many requests at once over one connection.

How bytes reach the runner is the business of a *connector*; `unix` is the one for engines on this machine.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from toolfleet.backends.base import Known, Outcome, Request
from toolfleet.backends.runner.frames import MAX_BODY, PROTOCOL, Decoder, FrameError, Header, encode
from toolfleet.config.errors import InvalidArguments, SandboxLost

#: Seconds beyond a call's own deadline after which a silent runner counts as lost; its kill takes at most six.
GUARD = 15.0
#: Seconds in which a runner answers anything that is not a call.
ANSWER = 10.0
#: Seconds that a closed connection may take to be released: by then its relay is on its own.
RELEASE = 5.0
#: The longest path that fits into a unix socket's address.
_SUN_PATH = 107


class Line(Protocol):
    """The writing half of a connection, as a connector returns it; every transport of asyncio is one."""

    def write(self, data: bytes, /) -> None:
        """Send ``data`` some time soon; the protocol is told to pause when too much waits."""
        ...

    def abort(self) -> None:
        """Close at once; the protocol's ``connection_lost`` follows."""
        ...


Connector = Callable[[Callable[[], asyncio.Protocol]], Awaitable[Line]]
"""Connects a protocol made by the argument to the runner; raises OSError when nothing is there.

`unix` is one, further ones stand in `toolfleet.backends.transports`.
"""


class Fenced(SandboxLost):
    """Another holder has claimed the sandbox under a higher epoch; the request was not run."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the sandbox is held by another worker, under epoch {epoch}", sent=False)
        self.epoch = epoch


def unix(address: str) -> Connector:
    """Connect to a unix socket, however long its path is."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> Line:
        loop = asyncio.get_running_loop()
        if len(os.fsencode(address)) <= _SUN_PATH:
            transport, _ = await loop.create_unix_connection(factory, address)
            return transport
        path = Path(address)
        directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
        try:
            transport, _ = await loop.create_unix_connection(factory, f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        return transport

    return connect


class Channel:
    """A runner, as seen by one process. All methods are coroutines of one event loop."""

    def __init__(self, connect: Connector, name: str) -> None:
        self._connect = connect
        self._name = name
        """What errors call the sandbox."""
        self._rids = itertools.count(1)
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._epoch = 0
        self._boot: str | None = None
        self._closed = False

    async def open(self) -> None:
        """Connect, unless that is done already. In a sandbox that others have claimed, only `claim` and `query` help.

        Raises:
            SandboxLost: nothing answers.
        """
        await self._connected()

    async def claim(self, epoch: int) -> None:
        """Speak for ``epoch`` from now on, and have the runner refuse everybody who speaks for a lower one.

        Raises:
            Fenced: a higher epoch has been claimed before.
            SandboxLost: the runner does not answer.
        """
        link = await self._connected()
        self._epoch = epoch
        await self._ask(link, {"op": "hello", "epoch": epoch})

    async def run(self, request: Request) -> Outcome:
        """See `toolfleet.backends.base.Sandbox.run`.

        Raises:
            InvalidArguments: the arguments are larger than a frame; nothing was sent.
        """
        try:
            return await self._run(request, await self._connected())
        except SandboxLost as error:
            if isinstance(error, Fenced) or not error.sent or self._closed:
                raise
        # The connection broke, not necessarily the runner: the same runner (see `_greet`) never runs a call twice.
        try:
            return await self._run(request, await self._connected())
        except Fenced:
            raise
        except SandboxLost as error:
            raise SandboxLost(str(error), sent=True) from error

    async def cancel(self, call_id: str) -> bool:
        """See `toolfleet.backends.base.Sandbox.cancel`."""
        reply = await self._ask(await self._connected(), {"op": "cancel", "call": call_id})
        return bool(reply["known"])

    async def query(self, call_id: str) -> Known:
        """What the runner knows of a call: ``running``, ``finished`` or ``unknown``. Answered whatever our epoch.

        Raises:
            SandboxLost: the runner does not answer.
        """
        state = (await self._ask(await self._connected(), {"op": "query", "call": call_id}))["state"]
        return state if state in ("running", "finished") else "unknown"

    async def ping(self, ttl: float) -> int:
        """See `toolfleet.backends.base.Sandbox.ping`."""
        return int((await self._ask(await self._connected(), {"op": "ping", "ttl": ttl}))["processes"])

    async def renew(self) -> None:
        """End every process, and have the runner forget calls, epochs and everybody who knew it but us.

        Raises:
            SandboxLost: the runner does not answer.
        """
        self._boot = str((await self._ask(await self._connected(), {"op": "renew"}))["boot"])
        self._epoch = 0

    async def detach(self) -> None:
        """Close the connection; the runner and its calls go on. What waits here fails with `SandboxLost`."""
        self._closed = True
        if self._link is not None:
            link, self._link = self._link, None
            link.abort("this process has closed its channel")
            await link.released()

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _connected(self) -> "_Link":
        if self._link is not None and self._link.alive:
            return self._link
        async with self._connecting:
            if self._link is not None and self._link.alive:
                return self._link
            if self._closed:
                raise SandboxLost(f"the channel to {self._name} is closed", sent=False)
            link = _Link(self._name)
            try:
                async with asyncio.timeout(ANSWER):
                    link.transport = await self._connect(lambda: link)
            except OSError as error:
                raise SandboxLost(f"the runner of {self._name} is gone: {error}", sent=False) from error
            try:
                await self._greet(link)
                if self._closed:  # meanwhile: whoever closed has not seen this connection, and nobody else will
                    raise SandboxLost(f"the channel to {self._name} is closed", sent=False)
            except BaseException:
                link.abort("the greeting failed")
                await link.released()
                raise
            self._link = link
            return link

    async def _greet(self, link: "_Link") -> None:
        try:
            reply = await self._ask(link, {"op": "hello", "epoch": self._epoch})
        except Fenced:
            raise
        except SandboxLost as error:
            raise SandboxLost(str(error), sent=False) from error
        if reply["protocol"] != PROTOCOL:
            raise SandboxLost(f"the runner of {self._name} speaks another protocol", sent=False)
        if self._boot not in (None, reply["boot"]):
            raise SandboxLost(f"another runner answers for {self._name}", sent=False)
        self._boot = reply["boot"]

    async def _run(self, request: Request, link: "_Link") -> Outcome:
        rid = next(self._rids)
        view = memoryview(request.body)
        header = {
            "op": "run",
            "rid": rid,
            "call": request.call_id,
            "kind": request.op,
            "args": dict(request.args),
            "timeout": request.timeout,
            "more": len(view) > MAX_BODY,
        }
        try:
            frame = encode(header, view[:MAX_BODY])
        except (FrameError, TypeError) as error:
            raise InvalidArguments(f"the arguments of {request.call_id} cannot be sent: {error}") from error
        try:
            reply = link.expect(rid, request.timeout + GUARD)
            await link.send(frame)
            for start in range(MAX_BODY, len(view), MAX_BODY):
                part = view[start : start + MAX_BODY]
                await link.send(encode({"op": "data", "rid": rid, "last": start + MAX_BODY >= len(view)}, part))
            return _outcome(*await reply)
        finally:
            link.drop(rid)

    async def _ask(self, link: "_Link", header: Header) -> Header:
        rid = next(self._rids)
        try:
            reply = link.expect(rid, ANSWER)
            await link.send(encode({**header, "rid": rid}))
            return (await reply)[0]
        finally:
            link.drop(rid)


class _Link(asyncio.Protocol):
    """One connection: replies are handed to whoever waits for their number."""

    transport: Line

    def __init__(self, name: str) -> None:
        self.alive = True
        self._name = name
        self._decoder = Decoder()
        self._waiting: dict[int, tuple[asyncio.Future[tuple[Header, bytes]], asyncio.TimerHandle]] = {}
        self._parts: dict[int, bytearray] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._released = asyncio.Event()

    def expect(self, rid: int, seconds: float) -> "asyncio.Future[tuple[Header, bytes]]":
        """The future reply to the request ``rid``; without one by then, the connection is given up for everybody."""
        if not self.alive:
            raise SandboxLost(f"the connection to {self._name} is closed", sent=False)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Header, bytes]] = loop.create_future()
        self._waiting[rid] = future, loop.call_later(seconds, self.abort, "it did not answer in time")
        return future

    def drop(self, rid: int) -> None:
        """Nobody waits for ``rid`` any more."""
        self._parts.pop(rid, None)
        if (waiting := self._waiting.pop(rid, None)) is not None:
            future, overdue = waiting
            future.cancel()
            overdue.cancel()

    async def send(self, frame: bytes) -> None:
        """Write a frame; waits while the runner takes nothing."""
        await self._writable.wait()
        if self.alive:
            self.transport.write(frame)

    def abort(self, why: str) -> None:
        """Close the connection at once; everybody who waits gets a `SandboxLost`."""
        self._end(why)
        self.transport.abort()

    async def released(self) -> None:
        """Wait until the transport has let go of what it holds, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE):
                await self._released.wait()

    def data_received(self, data: bytes) -> None:
        try:
            for header, body in self._decoder.feed(data):
                self._deliver(header, body)
        except (FrameError, KeyError, TypeError) as error:
            self.abort(f"it sent {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc else "it has ended")
        self._released.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _deliver(self, header: Header, body: bytes) -> None:
        future, _ = self._waiting.get(header["rid"], (None, None))
        if future is None or future.done():
            return
        if "part" in header:
            self._parts.setdefault(header["rid"], bytearray()).extend(body)
        elif "fenced" in header:
            future.set_exception(Fenced(header["fenced"]))
        else:
            before = self._parts.pop(header["rid"], None)
            future.set_result((header, bytes(before + body) if before is not None else body))

    def _end(self, why: str) -> None:
        self.alive = False
        self._writable.set()
        waiting, self._waiting = self._waiting, {}
        for future, overdue in waiting.values():
            overdue.cancel()
            if not future.done():
                future.set_exception(SandboxLost(f"the runner of {self._name} is gone: {why}", sent=True))


def _outcome(header: Header, body: bytes) -> Outcome:
    fields: dict[str, Any] = dict(header["outcome"])
    length, out_head, out_dropped = fields.pop("stdout")
    _, err_head, err_dropped = fields.pop("stderr")
    return Outcome(
        **fields,
        stdout=body[:length],
        stderr=body[length:],
        stdout_head=out_head,
        stderr_head=err_head,
        stdout_dropped=out_dropped,
        stderr_dropped=err_dropped,
    )
