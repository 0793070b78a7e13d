"""Replies of the terminal of a VM for each task."""

from collections.abc import Mapping
from typing import Any

from toolfleet.config.contract import Fault, Status, ToolResult
from toolfleet.producer.adapters.shapes.common import RECREATED, Reply, kept, number
from toolfleet.producer.adapters.shapes.terminal import INTERRUPTED, NO_EXIT_CODE, TIMED_OUT


def hecate(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """``output``, ``exit_code``, ``error``; ``error`` speaks of the tool, never of the command."""
    if result.fault is Fault.INFRASTRUCTURE or result.status is Status.REJECTED:
        reply = hecate_failure(result.error or result.status.value)
        if result.status is Status.LOST:
            reply["environment_recreated"] = RECREATED
        return reply
    if arguments.get("background") and result.status is Status.OK and not result.error:
        started = kept(result.detail, "session_id", "pid")
        return {"output": "Background task started successfully", "exit_code": 0, "error": None, **started}
    output, code = result.output, NO_EXIT_CODE if result.exit_code is None else result.exit_code
    if result.status is Status.TIMEOUT:
        code = TIMED_OUT
        output += f"\nCommand timed out after {number(result.detail.get('timeout', 0))} seconds"
    elif result.status is Status.CANCELLED:
        code = INTERRUPTED
    elif result.error:
        code = NO_EXIT_CODE
        output += f"\nCommand execution failed: {result.error}"
    return {"output": output.strip(), "exit_code": code, "error": None}


def hecate_failure(reason: object) -> Reply:
    """The reply when the tool itself failed."""
    error = f"Failed to execute command: {reason}"
    return {"output": "", "exit_code": NO_EXIT_CODE, "error": error, "status": "error"}


def hecate_disabled(reason: str) -> Reply:
    """The reply when the terminal cannot work here at all."""
    return {"output": "", "exit_code": NO_EXIT_CODE, "error": reason, "status": "disabled"}
