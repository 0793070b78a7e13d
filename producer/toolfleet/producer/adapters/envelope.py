"""From the one envelope of a call to the predecessors' ``success``, ``output``, ``error`` and ``metadata``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from toolfleet.config.contract import FAULT_OF, Fault, Status, ToolResult
from toolfleet.config.errors import InvalidCall, ToolfleetError
from toolfleet.config.profile import Profile

#: Tools whose output is that of a shell; they say more about their ending than others.
SHELLS = frozenset({"terminal", "terminal_stateful", "tmux"})
#: Bytes of the largest file that a predecessor's `read_file` brought.
LARGEST_FILE = 100_000
#: The exit code that a shell's timeout had; the envelope's own is 124.
TIMED_OUT = -1


class Reply(NamedTuple):
    """What a predecessor answered to one tool."""

    success: bool
    output: str
    error: str
    metadata: dict[str, Any]


def reply(
    tool: str, arguments: Mapping[str, Any], timeout: float, result: ToolResult, profile: Profile | None
) -> Reply:
    """What ``result`` of ``tool`` (by its name, not an alias), which could run ``timeout`` seconds, looks like.

    ``metadata`` holds the tool's own detail, the facts that a trainer needs (``status``, ``fault``, ``executed``,
    ``worker_id``, ``workspace_generation``, ``truncated``), and for shells how they ended and were confined.
    ``profile`` is None where this side does not know it; then nothing is said of the network.
    """
    metadata = _metadata(result)
    if tool in SHELLS:
        metadata |= _confinement(result, profile)
    if result.status is Status.OK:
        return Reply(result.ok, _output(tool, arguments, result), _own_error(result), metadata)
    return Reply(False, _streams(result) or result.output, _error(tool, timeout, result), metadata)


def whole_file(result: ToolResult) -> Reply:
    """What `read_file` of a path alone looks like, from ``result`` of reading the file as an artifact."""
    metadata = {key: value for key, value in _metadata(result).items() if key != "content"}
    if not result.ok:
        return Reply(False, "", _error("read_file", 0, result), metadata)
    if result.detail.get("truncated"):
        size = result.detail.get("file_size")
        return Reply(False, "", f"File too large: {size} bytes (max {LARGEST_FILE})", metadata)
    return Reply(True, str(result.detail.get("content", "")), "", metadata)


def refused(message: str) -> Reply:
    """The answer to what a model may not ask; nothing ran."""
    return _ended(Status.REJECTED, message)


def failed(error: ToolfleetError) -> Reply:
    """The answer to a call that the fleet did not take; nothing ran."""
    if isinstance(error, InvalidCall):
        return _ended(Status.REJECTED, str(error))
    return _ended(Status.FAILED, f"Failed to acquire slot: {error}")


def released(trajectory_id: str) -> Reply:
    """The answer to a call of a trajectory that was released before the call could start."""
    return _ended(Status.CANCELLED, f"Trajectory {trajectory_id!r} was released; it takes no more calls")


def broken(error: Exception) -> Reply:
    """The answer to a call that met a defect of ours; what became of it is not known."""
    return _ended(Status.UNKNOWN, f"Batch execution failed: {error}", executed="unknown")


def _ended(status: Status, error: str, executed: str = "no") -> Reply:
    return Reply(False, "", error, {"status": status.value, "fault": FAULT_OF[status].value, "executed": executed})


#: What every answer says of its call, whatever the tool says by the same names.
_FACTS = {"status", "fault", "executed", "worker_id", "workspace_generation"}


def _metadata(result: ToolResult) -> dict[str, Any]:
    return {"truncated": result.truncated, **result.detail, **result.model_dump(mode="json", include=_FACTS)}


def _confinement(result: ToolResult, profile: Profile | None) -> dict[str, Any]:
    timed_out = result.status is Status.TIMEOUT
    said: dict[str, Any] = {"exit_code": TIMED_OUT if timed_out else result.exit_code, "sandboxed": True}
    if profile is not None:
        said["network_isolated"] = profile.network in ("none", "internal")
    return said | ({"timeout": True} if timed_out else {})


def _output(tool: str, arguments: Mapping[str, Any], result: ToolResult) -> str:
    if tool == "terminal" and "session_id" not in result.detail:
        return _streams(result)  # a process in the background has none; its output says how it began
    if tool == "write_file" and result.ok:
        written = len(str(arguments.get("content", "")).encode("utf-8", "surrogatepass"))
        return f"Successfully wrote {written} bytes to {arguments.get('path')}"
    if tool == "read_file":
        return result.stdout
    return result.output


def _streams(result: ToolResult) -> str:
    if not result.stderr:
        return result.stdout
    return f"{result.stdout}\n[stderr]\n{result.stderr}"


def _own_error(result: ToolResult) -> str:
    return "" if result.ok else result.error or f"Exit code: {result.exit_code}"


def _error(tool: str, timeout: float, result: ToolResult) -> str:
    said = result.error or result.status.value
    if result.status is Status.TIMEOUT:
        return f"Command timed out after {timeout:g}s" if tool in SHELLS else said
    if result.status is Status.FAILED:
        return f"Failed to acquire slot: {said}"
    if result.fault is Fault.INFRASTRUCTURE:
        return f"Batch execution failed: {said}"
    return said
