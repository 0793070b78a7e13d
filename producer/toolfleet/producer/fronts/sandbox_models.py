"""Requests and answers of the sandbox server."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from toolfleet.producer.adapters.artifacts import ArchiveRequest, ListRequest, ReadRequest

#: Executions in one batch.
LARGEST_BATCH = 1_000

SlotId = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ExecuteRequest(BaseModel):
    """Run one tool in a slot."""

    slot_id: SlotId
    tool: str = Field(min_length=1, max_length=200)
    args: dict[str, Any] = {}
    execution_id: str | None = Field(default=None, min_length=1, max_length=1_000)
    """The same one again gives the same answer, without running again."""
    timeout: float | None = 30.0
    """Seconds it may run, cut to 1..600."""


Batch = Annotated[list[ExecuteRequest], Field(max_length=LARGEST_BATCH)]


class Execution(BaseModel):
    """What came of one tool."""

    success: bool
    output: str = ""
    error: str = ""
    execution_id: str
    metadata: dict[str, Any] = {}


class OfSlot(BaseModel):
    """Which slot is meant."""

    slot_id: SlotId


class SlotReadRequest(ReadRequest, OfSlot):
    """Bring one file of a slot."""


class SlotListRequest(ListRequest, OfSlot):
    """List one folder of a slot."""


class SlotArchiveRequest(ArchiveRequest, OfSlot):
    """Bring a folder of a slot as one archive."""


class SandboxHealth(BaseModel):
    """What the server has."""

    status: Literal["ok"] = "ok"
    slots: int
    available: int
    executing: int
    data_dir: str
    bwrap_available: bool = True
    """Commands run in a sandbox always, whichever backend makes it."""
    stateful_dir: str = ""
    """Stateful tools need none."""


class SlotStatus(BaseModel):
    """One slot."""

    slot_id: str
    state: str
    workspace_dir: str
    current_execution_id: str | None


class Slots(BaseModel):
    """All slots."""

    slots: list[SlotStatus]


class WasReset(BaseModel):
    """The slot has an empty workspace."""

    success: Literal[True] = True
    slot_id: str
