"""Replies of ``process``."""

from collections.abc import Mapping
from typing import Any

from toolfleet.config.contract import Fault, Status, ToolResult
from toolfleet.producer.adapters.shapes.common import Reply, degraded

ACTIONS = ("list", "poll", "log", "wait", "kill", "write", "submit")
#: Characters of a process's output that `poll` shows.
PREVIEW = 1_000


def process(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """What the tool says of a background process, by the names of its action."""
    if result.fault is Fault.INFRASTRUCTURE:
        return degraded(result)
    action = arguments.get("action")
    if result.status is Status.REJECTED:
        return {"error": _refusal(result, action, arguments)}
    reply: Reply = {key: value for key, value in result.detail.items() if value is not None}
    if action == "list":
        reply.setdefault("processes", [])
    elif action in ("log", "wait"):
        reply.setdefault("output", result.output)
    elif action == "poll" and reply.get("status") != "not_found":
        reply.setdefault("output_preview", result.output[-PREVIEW:])
    if result.status is Status.TIMEOUT:
        reply.setdefault("status", "timeout")
    elif result.status is Status.CANCELLED:
        reply["status"] = "interrupted"
    if result.error and not reply.get("error"):
        reply["error"] = result.error
    return reply


def _refusal(result: ToolResult, action: object, arguments: Mapping[str, Any]) -> str | None:
    if result.detail.get("refusal") != "InvalidArguments":
        return result.error
    if action not in ACTIONS:
        return f"Unknown process action: {action}. Use: {', '.join(ACTIONS)}"
    if action != "list" and not arguments.get("session_id"):
        return f"session_id is required for {action}"
    return result.error
