"""Requests and answers of the managed-sandbox server; names are those of its JSON."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

#: An id that stands in a path.
Ident = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
Milliseconds = Annotated[int, Field(ge=1, le=7 * 24 * 3600 * 1000)]


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class CreateRequest(_Body):
    """Make a sandbox. What the profile does not give is refused."""

    image: str | None = Field(default=None, max_length=1_000)
    cwd: str | None = Field(default=None, min_length=1, max_length=4_096)
    """Where commands start; None takes the profile's ``workdir``."""
    cpu: float | None = Field(default=None, gt=0)
    memory_mib: int | None = Field(default=None, ge=1, alias="memoryMiB")
    disk_mib: int | None = Field(default=None, ge=1, alias="diskMiB")
    timeout_ms: Milliseconds = 3_600_000
    """How long it lives at most."""
    idle_timeout_ms: Milliseconds | None = None
    """How long it lives without a command; None takes ``timeoutMs``, and at least five minutes."""
    persistent_filesystem: bool = False
    logical_key: str | None = Field(default=None, max_length=1_000)


class Created(_Body):
    """The sandbox, and what of the request it cannot do."""

    id: str
    persistent_filesystem: Literal[False] = False
    """Files end with the sandbox."""


class ExecRequest(_Body):
    """Run a command. The same id again is the same execution."""

    exec_id: Ident
    command: str = Field(min_length=1)
    cwd: str | None = Field(default=None, min_length=1, max_length=4_096)
    timeout_ms: Milliseconds | None = None
    stdin_data: str | None = None


class ExecStatus(StrEnum):
    """Where an execution is in its life."""

    RUNNING = "running"
    COMPLETED = "completed"
    """The command ended by itself, with whatever code."""
    FAILED = "failed"
    """It could not be run, or what became of it is not known; ``fault`` says whose doing that is."""
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class Exec(_Body):
    """An execution."""

    exec_id: str
    status: ExecStatus
    output: str | None = None
    returncode: int | None = None
    error: str | None = None
    fault: str | None = None
    """``infrastructure``: mask it, never score it 0."""


class TerminateRequest(_Body):
    """End a sandbox."""

    snapshot_before_terminate: bool = False


class Terminated(_Body):
    """The sandbox has ended."""

    id: str
    status: Literal["terminated"] = "terminated"
    snapshot_id: None = None
    """None was made: a workspace ends with its sandbox."""
