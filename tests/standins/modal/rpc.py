"""Serves a part of a gRPC service from its descriptor, through `faults`; what is not offered is UNIMPLEMENTED."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream
from standins.modal.faults import Dropped, Faults, strike


@dataclass(frozen=True, slots=True)
class Call:
    """What comes with a request."""

    rpc: str
    metadata: Mapping[str, str]


Unary = Callable[[Any, Call], Awaitable[Message]]
Streaming = Callable[[Any, Call], AsyncIterator[Message]]


class Service:
    """One service, answered by functions that are named after its RPCs."""

    def __init__(
        self,
        descriptor: ServiceDescriptor,
        faults: Faults,
        unary: Mapping[str, Unary],
        streaming: Mapping[str, Streaming],
        check: Callable[[Call], None],
    ) -> None:
        self._descriptor = descriptor
        self._faults = faults
        self._unary = unary
        self._streaming = streaming
        self._check = check
        self._open: set[Stream[Any, Any]] = set()

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib asks a service for."""
        handlers = {}
        for name in (*self._unary, *self._streaming):
            method = self._descriptor.methods_by_name[name]
            many = name in self._streaming
            handlers[f"/{self._descriptor.full_name}/{name}"] = Handler(
                partial(self._serve, name),
                Cardinality.UNARY_STREAM if many else Cardinality.UNARY_UNARY,
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
            )
        return handlers

    def cut(self) -> int:
        """Cut the connections of all calls under way; return how many calls these are."""
        for stream in (calls := list(self._open)):
            _abort(stream)
        return len(calls)

    async def _serve(self, name: str, stream: Stream[Any, Any]) -> None:
        self._open.add(stream)
        try:
            request = await stream.recv_message()
            if request is None:
                return
            call = Call(name, {key: str(value) for key, value in (stream.metadata or {}).items()})
            fault = self._faults.take(name)
            self._check(call)
            await strike(fault, "before")
            if name in self._unary:
                response = await self._unary[name](request, call)
                await strike(fault, "after")
                await stream.send_message(response)
                return
            async with contextlib.aclosing(self._streaming[name](request, call)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    await stream.send_message(response)
                    await strike(fault, "after")
        except Dropped:
            _abort(stream)
        finally:
            self._open.discard(stream)


def _abort(stream: Stream[Any, Any]) -> None:
    # grpclib offers no way to drop a peer without a word, which is all that a lost answer is.
    stream._stream._transport.abort()
