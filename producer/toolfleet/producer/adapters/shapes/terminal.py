"""Replies of ``terminal``, and of an environment's ``execute``."""

from collections.abc import Mapping
from typing import Any

from toolfleet.config.contract import Fault, Status, ToolResult
from toolfleet.producer.adapters.shapes.common import Reply, degraded, kept, number

TIMED_OUT, INTERRUPTED, NO_EXIT_CODE = 124, 130, -1

#: What a terminal may say besides; absent when there is nothing to say.
_NOTES = (
    "cwd",
    "full_output_path",
    "output_total_chars",
    "truncation_note",
    "exit_code_meaning",
    "hint",
    "timeout_note",
    "check_interval_note",
)


def terminal(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """``output``, ``exit_code``, ``error``; with ``status`` when the command did not run as asked."""
    if result.fault is Fault.INFRASTRUCTURE:
        return {"output": result.output, "exit_code": NO_EXIT_CODE, **degraded(result)}
    if result.status is Status.REJECTED:
        return {"output": "", "exit_code": NO_EXIT_CODE, "error": result.error, "status": "error"}
    if arguments.get("background") and result.status is Status.OK:
        return _background(result)
    return {"output": result.output, **_ending(result), **kept(result.detail, *_NOTES)}


def environment(result: ToolResult) -> Reply:
    """``output`` and ``returncode``, as an environment's ``execute`` gives them."""
    output, code = result.output, _ending(result)["exit_code"]
    if result.status is Status.TIMEOUT:
        note = f"Command timed out after {number(result.detail.get('timeout', 0))}s"
        output = f"{output}\n{note}" if output else note
    elif result.fault is Fault.INFRASTRUCTURE or result.status is Status.REJECTED:
        output, code = result.error or output, NO_EXIT_CODE
    return {"output": output, "returncode": code}


def _ending(result: ToolResult) -> Reply:
    if result.status is Status.TIMEOUT:
        seconds = number(result.detail.get("timeout", 0))
        return {"exit_code": TIMED_OUT, "error": f"Command timed out after {seconds} seconds"}
    if result.status is Status.CANCELLED:
        return {"exit_code": INTERRUPTED, "error": "Command interrupted"}
    code = NO_EXIT_CODE if result.exit_code is None else result.exit_code
    return {"exit_code": code, "error": result.error}


def _background(result: ToolResult) -> Reply:
    if result.error:
        error = f"Failed to start background process: {result.error}"
        return {"output": "", "exit_code": NO_EXIT_CODE, "error": error}
    started = kept(result.detail, "session_id", "pid")
    ending = {"exit_code": 0, "error": None}
    return {"output": "Background process started", **started, **ending, **kept(result.detail, *_NOTES)}
