"""Every call is counted once, by how it ended."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.config.contract import FAULT_OF, Fault, Status, ToolResult
from toolfleet.producer.agent import CallMetrics, ToolError, Verdict, verdict_of_reply, verdict_of_result


def result(status: Status, exit_code: int | None = None, error: str | None = None) -> ToolResult:
    return ToolResult(
        call_id="c", trajectory_id="t", name="terminal", status=status, fault=FAULT_OF[status], executed="yes",
        exit_code=exit_code, error=error,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (result(Status.OK, 0), "ok"),
        (result(Status.OK, 1), "ok"),
        (result(Status.OK, 124), "ok"),
        (result(Status.OK, 1, "file not found"), "error"),
        (result(Status.TIMEOUT, 124, "timed out after 1 s"), "error"),
        (result(Status.CANCELLED), "error"),
        (result(Status.FAILED), "error"),
        (result(Status.LOST), "error"),
        (result(Status.UNKNOWN), "error"),
        (result(Status.REJECTED, error="unknown tool"), "rejected"),
    ],
)
def test_a_failing_command_is_no_failing_tool(ended: ToolResult, verdict: Verdict) -> None:
    """Defect 36: an exit code is the command's own; what the tool could not do is an error."""
    assert verdict_of_result(ended) == verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ({"output": "", "exit_code": 0, "error": None}, "ok"),
        ({"output": "", "exit_code": 1, "error": None}, "ok"),
        ({"output": "", "exit_code": -1, "error": None}, "error"),
        ({"output": "", "exit_code": 124, "error": "Command timed out after 5 seconds"}, "error"),
        ({"error": "File not found: a"}, "error"),
        ({"error": ""}, "ok"),
        ([1], "ok"),
    ],
)
def test_a_reply_tells_the_same_by_its_json(reply: object, verdict: Verdict) -> None:
    """L5: a truthy error, or an exit code below zero."""
    assert verdict_of_reply(json.dumps(reply)) == verdict


def test_a_reply_that_is_no_json_is_output() -> None:
    assert verdict_of_reply("hello") == verdict_of_reply("[" * 100_000) == "ok"


CALLS = st.lists(st.tuples(st.sampled_from(["ok", "error", "rejected"]), st.booleans(), st.sampled_from(Fault)))


@given(CALLS)
def test_every_call_is_counted_exactly_once(calls: list[tuple[Verdict, bool, Fault]]) -> None:
    metrics = CallMetrics()
    for verdict, schema_valid, fault in calls:
        metrics = metrics.plus(verdict, schema_valid=schema_valid, fault=fault)
    assert metrics.attempted == len(calls) == metrics.ok + metrics.error + metrics.rejected
    assert metrics.schema_valid == sum(valid for _, valid, _ in calls)
    assert metrics.infrastructure == sum(fault is Fault.INFRASTRUCTURE for *_, fault in calls)


def test_the_counters_of_an_agent_result_follow_from_them() -> None:
    """L1; an unknown tool was an error that nobody had attempted (defect 36)."""
    metrics = CallMetrics().plus_result(result(Status.OK, 1)).plus_result(result(Status.REJECTED), schema_valid=False)
    metrics = metrics.plus_result(result(Status.LOST))
    assert metrics.counters() == {
        "tool_calls_attempted": 3,
        "tool_calls_schema_valid": 2,
        "tool_calls_executed_ok": 1,
        "tool_calls_exec_error": 2,
    }
    assert metrics.infrastructure == 1


def test_a_tool_error_is_kept_short() -> None:
    error = ToolError.of(3, "terminal", "a" * 1000, "it broke", "r" * 1000)
    assert (len(error.arguments), len(error.tool_result)) == (200, 500)
