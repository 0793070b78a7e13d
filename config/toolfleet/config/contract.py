"""The wire: what a producer sends (`ToolCall`) and what it gets back (`ToolResult`).

Both are JSON, never pickle. Unknown fields are ignored on reading, so that a newer peer can add some.
"""

import math
import re
import secrets
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

#: Seconds that saving a workspace for forks may take.
FORK_TIMEOUT = 600.0
#: Trajectories that one fork makes at most.
MAX_FORKS = 1000
#: Characters kept in the ``output``, ``stdout`` and ``stderr`` fields of a result.
OUTPUT_LIMIT = 50_000
#: Share of a cut text that is kept from its beginning; the rest is its end, where the verdict of a test run stands.
HEAD_SHARE = 0.4

#: A name of a fleet, worker, sweep or profile: safe in a Redis key, a file name and a queue name.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
#: A trajectory's or call's id as the caller gives it: printable, no white space, at most 200 characters.
Identifier = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]

#: As a tuple: a union would be put together anew at every check.
_NUMBER = (int, float)
_IDENTIFIER = re.compile(r"^[!-~]{1,200}$")


class Status(StrEnum):
    """How a call ended."""

    OK = "ok"
    """The tool ran; a non-zero exit code is the command's own."""
    TIMEOUT = "timeout"
    """Killed at its deadline inside the sandbox, with its whole process tree; partial output is kept."""
    REJECTED = "rejected"
    """Unknown tool, bad arguments or denied by policy; never ran."""
    CANCELLED = "cancelled"
    """Stopped by the producer or an operator."""
    FAILED = "failed"
    """Infrastructure failed before the command started, and retries are used up."""
    LOST = "lost"
    """The workspace is gone; ``error`` names the cause."""
    UNKNOWN = "unknown"
    """It started, and what became of it cannot be learnt."""


class Fault(StrEnum):
    """Whose doing an ending is. A trainer masks ``infrastructure`` and never scores it 0."""

    NONE = "none"
    POLICY = "policy"
    INFRASTRUCTURE = "infrastructure"


Executed = Literal["yes", "no", "unknown"]

#: Whose fault each status is: the only place that says so.
FAULT_OF: dict[Status, Fault] = {
    Status.OK: Fault.NONE,
    Status.TIMEOUT: Fault.POLICY,
    Status.REJECTED: Fault.POLICY,
    Status.CANCELLED: Fault.NONE,
    Status.FAILED: Fault.INFRASTRUCTURE,
    Status.LOST: Fault.INFRASTRUCTURE,
    Status.UNKNOWN: Fault.INFRASTRUCTURE,
}


def new_id(prefix: str) -> str:
    """A fresh id: ``prefix`` and 20 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(10)}"


def is_identifier(text: str) -> bool:
    """Whether ``text`` may serve as a trajectory id or call id."""
    return _IDENTIFIER.fullmatch(text) is not None


class Setup(BaseModel):
    """A tar archive to unpack in a fresh workspace before its first call."""

    model_config = ConfigDict(frozen=True)

    archive: str
    """SHA-256 of the archive, under which its bytes are kept in Redis."""
    dest: str = "/"


class Beginning(BaseModel):
    """What the workspace of a trajectory begins with, beyond its profile."""

    model_config = ConfigDict(frozen=True)

    setup: tuple[Setup, ...] = ()
    image: str | None = Field(default=None, min_length=1, max_length=1000)
    """In the place of the profile's ``image``."""


class ToolCall(BaseModel):
    """One tool invocation: the unit of delivery, retry and result."""

    model_config = ConfigDict(frozen=True)

    call_id: Identifier
    trajectory_id: Identifier
    name: str = Field(max_length=200)
    arguments: dict[str, Any] | str = {}
    """The tool's arguments, or the JSON text of them as the model wrote it."""
    timeout: float | None = None
    """Seconds the tool may run; None takes the argument of that name, then the profile's default."""
    parallel: bool = False
    """May overlap with other calls of its trajectory."""
    children: tuple[Identifier, ...] = Field(default=(), max_length=MAX_FORKS)
    """No tool runs: the workspace is saved, for these trajectories to start from."""
    own: bool = False
    """Made by the producer on its own behalf: it may use hidden tools, which no profile forbids."""
    producer: str = ""
    profile: Name = "default"


class Timing(BaseModel):
    """Where the time of a call went, in seconds, from submission to the end of the tool."""

    model_config = ConfigDict(frozen=True)

    queued: float = 0.0
    """From submission until the worker had it."""
    waited: float = 0.0
    """Held back: for a free slot, and behind earlier calls of its trajectory."""
    started: float = 0.0
    """Getting the sandbox ready: warm hand-out or creation, set-up, retries."""
    ran: float = 0.0
    """In the tool, by the runner's own clock."""


class ToolResult(BaseModel):
    """What became of one call; see `Status` and `Fault` for how to read it."""

    model_config = ConfigDict(frozen=True)

    call_id: str
    trajectory_id: str
    name: str
    status: Status
    fault: Fault
    executed: Executed
    output: str = ""
    """What a model should see: stdout, then stderr when the command failed, cut to `OUTPUT_LIMIT`."""
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    error: str | None = None
    truncated: bool = False
    bytes_dropped: int = 0
    detail: dict[str, Any] = {}
    """What the tool says besides its output, by names of its own: a process id, a file's size, a diff. Small JSON."""
    attempts: int = 0
    """How often the call was tried; above 1 only for failures before its start."""
    worker_id: str = ""
    lease_epoch: int = 0
    workspace_generation: int = 0
    """Raised whenever the trajectory had to begin again with an empty workspace."""
    timing: Timing = Timing()

    @property
    def ok(self) -> bool:
        """The tool ran and its command succeeded."""
        return self.status is Status.OK and not self.exit_code


def ended(call: ToolCall, status: Status, *, executed: Executed, error: str | None = None, **fields: Any) -> ToolResult:
    """A result of ``call`` whose fault follows from its status."""
    return ToolResult(
        call_id=call.call_id,
        trajectory_id=call.trajectory_id,
        name=call.name,
        status=status,
        fault=FAULT_OF[status],
        executed=executed,
        error=error,
        **fields,
    )


def clamp_timeout(timeout: float, longest: float) -> float:
    """``timeout`` in seconds, cut to 1..``longest``; what is not a number of seconds is a ValueError."""
    # An int may be too large for a float, and so for `isnan`.
    nan = isinstance(timeout, float) and math.isnan(timeout)
    if nan or isinstance(timeout, bool) or not isinstance(timeout, _NUMBER):
        raise ValueError(f"timeout must be a number of seconds, not {timeout!r}")
    return float(min(max(timeout, 1.0), longest))
