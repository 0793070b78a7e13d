"""From the one envelope, `ToolResult`, to the JSON that the predecessors' tools returned; one file a family.

What a reply says besides ``output`` and ``error`` comes from `ToolResult.detail`. A key that is absent there is absent
in the reply, or has the value that means "nothing to say".
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from toolfleet.config.contract import Fault, Status, ToolResult
from toolfleet.config.errors import UnknownTool
from toolfleet.config.tools import catalogue
from toolfleet.producer.adapters.shapes.common import Reply, degraded, failure, unknown_tool
from toolfleet.producer.adapters.shapes.files import patch, read_file, search_files, write_file
from toolfleet.producer.adapters.shapes.process import process
from toolfleet.producer.adapters.shapes.terminal import NO_EXIT_CODE, environment, terminal

__all__ = ["Reply", "as_json", "environment", "reply", "reply_of_error", "unknown_tool"]

_SHAPES: dict[str, Callable[[ToolResult, Mapping[str, Any]], Reply]] = {
    "patch": patch,
    "process": process,
    "read_file": read_file,
    "search_files": search_files,
    "terminal": terminal,
    "terminal_stateful": terminal,
    "write_file": write_file,
}
_CATALOGUE = catalogue()


def reply(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """The reply of the tool that ``result`` names, which was called with ``arguments``."""
    if result.status is Status.REJECTED and result.detail.get("refusal") == "UnknownTool":
        return unknown_tool(result.name, result.detail.get("available", ()))
    return _SHAPES.get(_canonical(result.name), _other)(result, arguments)


def reply_of_error(name: str, error: Exception) -> Reply:
    """The reply when a call of ``name`` could not be made at all."""
    if _SHAPES.get(_canonical(name)) is terminal:
        return {"output": "", "exit_code": NO_EXIT_CODE, **failure(error)}
    return failure(error)


def as_json(said: Reply) -> str:
    """``said`` as the text that a model reads."""
    return json.dumps(said, ensure_ascii=False, default=str)


def _other(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """A tool without a shape of its own: the JSON object that it printed, or what it printed."""
    if result.fault is Fault.INFRASTRUCTURE:
        return degraded(result)
    if result.status is not Status.OK or result.error:
        return {"error": result.error or f"the call was {result.status.value}", **result.detail}
    try:
        said = json.loads(result.output)
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {"output": result.output, **result.detail}


def _canonical(name: str) -> str:
    try:
        return _CATALOGUE.get(name).name
    except UnknownTool:
        return name
