"""Results of calls, made by hand."""

from typing import Any

from toolfleet.config.contract import FAULT_OF, Executed, Status, ToolResult


def result(name: str = "terminal", status: Status = Status.OK, executed: Executed = "yes", **fields: Any) -> ToolResult:
    """A result of ``name`` that has ended so."""
    fault = FAULT_OF[status]
    return ToolResult(
        call_id="c", trajectory_id="t", name=name, status=status, fault=fault, executed=executed, **fields
    )
