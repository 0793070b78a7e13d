"""What replies of all tools have in common: how an outage, a broken call and a refusal are told."""

from collections.abc import Iterable, Mapping
from typing import Any

from toolfleet.config.contract import Status, ToolResult
from toolfleet.config.errors import FleetError, TrajectoryClosed

#: A reply as a predecessor's client reads it, before it becomes JSON text.
Reply = dict[str, Any]

#: Said once, in the reply that tells of a loss.
RECREATED = "The sandbox was lost, with all files and processes in it. The next call finds a new, empty one."

_AGAIN = "It did not run. Calling again may work."
_LOOK_FIRST = "It may have run. Look at the workspace before calling again."


def degraded(result: ToolResult) -> Reply:
    """The keys that tell of an outage: a client that masks ``status == "degraded"`` never scores one."""
    hint = _AGAIN if result.executed == "no" else _LOOK_FIRST
    reply: Reply = {"error": result.error, "status": "degraded", "reason": result.status.value, "retry_hint": hint}
    if result.status is Status.LOST:
        reply["environment_recreated"] = RECREATED
    return reply


def failure(error: Exception) -> Reply:
    """The keys that tell of a call that could not be made at all."""
    reply: Reply = {"error": f"Tool execution failed: {type(error).__name__}: {error}"}
    if isinstance(error, FleetError):
        reply |= {"status": "degraded", "reason": type(error).__name__, "retry_hint": _AGAIN}
    if isinstance(error, TrajectoryClosed):
        reply["environment_recreated"] = RECREATED
    return reply


def unknown_tool(name: str, available: Iterable[str]) -> Reply:
    """The reply to a call of a tool that there is not."""
    return {"error": f"Unknown tool '{name}'. Available tools: {sorted(available)}"}


def kept(detail: Mapping[str, Any], *keys: str) -> Reply:
    """Those of ``keys`` that ``detail`` says something of."""
    return {key: detail[key] for key in keys if detail.get(key) not in (None, [], "")}


def number(value: object) -> str:
    """A number of seconds without a needless fraction."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)
