"""What is said to a ToolServer and what it answers, in the shapes of its predecessor."""

from typing import Any

from pydantic import BaseModel, Field

#: Header of an answer that says that nothing was run, so that the call may be tried again.
EXECUTED = "Toolfleet-Executed"


class NamedCall(BaseModel):
    """Which tool, with what."""

    name: str = Field(min_length=1, max_length=200)
    arguments: dict[str, Any] = {}
    uniq_id: str | None = Field(default=None, max_length=200)


class ExecuteRequest(BaseModel):
    """Body of ``POST /execute``. All but the tool is set by whoever carries the call, never by the model."""

    tool: NamedCall
    trajectory_id: str | None = Field(default=None, max_length=200)
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds until the answer, the time in line included; None takes the server's default."""
    slot_id: str | None = Field(default=None, max_length=200)
    container_addr: str | None = Field(default=None, max_length=1000)


class ExecuteReply(BaseModel):
    """Answer of ``POST /execute``: what the tool gave, or why it failed."""

    success: bool
    output: str = ""
    error: str = ""
    metadata: dict[str, Any] = {}
    """``timed_out`` is true when the server stopped the tool at its deadline."""
    uniq_id: str | None = None


class ReleaseRequest(BaseModel):
    """Body of ``POST /release``: a trajectory has ended."""

    trajectory_id: str = Field(min_length=1, max_length=200)


class Health(BaseModel):
    """Answer of ``GET /health``, and of ``POST /release``."""

    status: str = "ok"


class ToolList(BaseModel):
    """Answer of ``GET /tools``: function tools as OpenAI describes them."""

    tools: list[dict[str, Any]]


class Problem(BaseModel):
    """Body of every answer that is an error of HTTP."""

    detail: str
