"""Replies of ``process``."""

from collections.abc import Mapping
from typing import Any

from toolfleet.config.contract import Fault, Status, ToolResult
from toolfleet.producer.adapters.shapes.common import Reply, degraded

#: Characters of a process's output that `poll` shows.
PREVIEW = 1_000


def process(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """What the tool says of a background process, by the names of its action."""
    if result.fault is Fault.INFRASTRUCTURE:
        return degraded(result)
    action = arguments.get("action")
    if result.status is Status.REJECTED:
        return {"error": result.error}
    reply: Reply = {key: value for key, value in result.detail.items() if value is not None}
    if action == "list":
        reply.setdefault("processes", [])
    elif action in ("log", "wait"):
        reply.setdefault("output", result.output)
    elif action == "poll" and reply.get("status") != "not_found":
        reply.setdefault("output_preview", result.output[-PREVIEW:])
    if result.status is Status.TIMEOUT:
        reply["status"] = "timeout"
    elif result.status is Status.CANCELLED:
        reply["status"] = "interrupted"
    if result.error and not reply.get("error"):
        reply["error"] = result.error
    return reply
