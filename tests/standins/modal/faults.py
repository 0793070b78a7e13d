"""What the stand-in can be told to do wrong, one RPC at a time."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from grpclib import GRPCError, Status
from modal_proto import api_pb2
from pydantic import BaseModel, ConfigDict


class Fault(BaseModel):
    """What goes wrong with the next ``count`` calls of ``rpc``, before or after its work has been done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rpc: str
    when: Literal["before", "after"] = "before"
    kind: Literal["status", "drop", "hang"] = "status"
    """``drop`` cuts the whole connection, ``hang`` never answers."""
    status: str = "UNAVAILABLE"
    """Name of a gRPC status."""
    retry_after: float | None = None
    """Seconds in an RPCRetryPolicy that comes with the status."""
    delay: float = 0.0
    """Seconds before anything of this happens."""
    count: int = 1


class Dropped(Exception):
    """The connection is to be cut."""


class Faults:
    """Faults that wait for their call, and a count of all calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let a fault wait; the oldest one of an RPC comes first."""
        self._waiting += [fault] * fault.count

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self._waiting.clear()

    def take(self, rpc: str) -> Fault | None:
        """The fault of this call, if it has one."""
        self.calls[rpc] += 1
        fault = next((fault for fault in self._waiting if fault.rpc == rpc), None)
        if fault is not None:
            self._waiting.remove(fault)
        return fault


async def strike(fault: Fault | None, when: Literal["before", "after"]) -> None:
    """Do what ``fault`` says, if it is its moment.

    Raises:
        Dropped: the connection is to be cut.
        GRPCError: this is the answer.
    """
    if fault is None or fault.when != when:
        return
    await asyncio.sleep(fault.delay)
    if fault.kind == "drop":
        raise Dropped
    if fault.kind == "hang":
        await asyncio.Event().wait()
    policy = None if fault.retry_after is None else [api_pb2.RPCRetryPolicy(retry_after_secs=fault.retry_after)]
    raise GRPCError(Status[fault.status], "as ordered", policy)


@contextlib.contextmanager
def invalid(what: str) -> Iterator[None]:
    """Turn a missing key into NOT_FOUND."""
    try:
        yield
    except KeyError as error:
        raise GRPCError(Status.NOT_FOUND, f"there is no {what} {error}") from error
