"""Each ending of each tool, in the shape that a predecessor's client reads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results import result

from toolfleet.config.contract import Status, ToolResult
from toolfleet.config.errors import FleetSaturated, InvalidArguments, TrajectoryClosed
from toolfleet.producer.adapters.shapes import as_json, environment, reply, reply_of_error, unknown_tool
from toolfleet.producer.adapters.shapes.common import RECREATED
from toolfleet.producer.adapters.shapes.hecate import hecate, hecate_disabled, hecate_failure

TIMED_OUT = result(status=Status.TIMEOUT, output="partial", exit_code=124, detail={"timeout": 5.0})
LOST = result(status=Status.LOST, executed="no", error="its worker died; the workspace is gone")
UNKNOWN = result(status=Status.UNKNOWN, executed="unknown", error="no answer")
AGAIN, LOOK = "It did not run. Calling again may work.", "It may have run. Look at the workspace before calling again."


@pytest.mark.parametrize(
    ("ended", "arguments", "said"),
    [
        (result(output="hi\n", exit_code=0), {}, {"output": "hi\n", "exit_code": 0, "error": None}),
        (result(output="no\n", exit_code=3), {}, {"output": "no\n", "exit_code": 3, "error": None}),
        (
            result(output="", exit_code=1, detail={"exit_code_meaning": "no matches", "cwd": None}),
            {},
            {"output": "", "exit_code": 1, "error": None, "exit_code_meaning": "no matches"},
        ),
        (TIMED_OUT, {}, {"output": "partial", "exit_code": 124, "error": "Command timed out after 5 seconds"}),
        (
            result(status=Status.CANCELLED, output="a", exit_code=137),
            {},
            {"output": "a", "exit_code": 130, "error": "Command interrupted"},
        ),
        (
            result(status=Status.REJECTED, executed="no", error="bad", output="bad"),
            {},
            {"output": "", "exit_code": -1, "error": "bad", "status": "error"},
        ),
        (
            UNKNOWN,
            {},
            {
                "output": "",
                "exit_code": -1,
                "error": "no answer",
                "status": "degraded",
                "reason": "unknown",
                "retry_hint": LOOK,
            },
        ),
        (
            LOST,
            {},
            {
                "output": "",
                "exit_code": -1,
                "error": LOST.error,
                "status": "degraded",
                "reason": "lost",
                "retry_hint": AGAIN,
                "environment_recreated": RECREATED,
            },
        ),
        (
            result(exit_code=0, detail={"session_id": "proc_0123456789ab", "pid": 7}),
            {"background": True},
            {
                "output": "Background process started",
                "session_id": "proc_0123456789ab",
                "pid": 7,
                "exit_code": 0,
                "error": None,
            },
        ),
        (
            result(exit_code=1, error="no room"),
            {"background": True},
            {"output": "", "exit_code": -1, "error": "Failed to start background process: no room"},
        ),
    ],
)
def test_terminal(ended: ToolResult, arguments: dict[str, Any], said: dict[str, Any]) -> None:
    """B8, N5: a command's exit code, 124 at a deadline, 130 when interrupted, -1 with a status when it did not run."""
    assert reply(ended, {"command": "x", **arguments}) == said
    assert reply(ended.model_copy(update={"name": "bash"}), {"command": "x", **arguments}) == said


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (result(output="hi\n", exit_code=0), {"output": "hi\n", "returncode": 0}),
        (TIMED_OUT, {"output": "partial\nCommand timed out after 5s", "returncode": 124}),
        (
            result(status=Status.TIMEOUT, detail={"timeout": 1.5}),
            {"output": "Command timed out after 1.5s", "returncode": 124},
        ),
        (result(status=Status.CANCELLED, output="a"), {"output": "a", "returncode": 130}),
        (LOST, {"output": LOST.error, "returncode": -1}),
        (result(status=Status.REJECTED, executed="no", error="bad"), {"output": "bad", "returncode": -1}),
    ],
)
def test_execute_of_an_environment(ended: ToolResult, said: dict[str, Any]) -> None:
    """B12."""
    assert environment(ended) == said


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (result(output=" hi \n", exit_code=0), {"output": "hi", "exit_code": 0, "error": None}),
        (result(output="out\nerr\n", exit_code=2), {"output": "out\nerr", "exit_code": 2, "error": None}),
        (TIMED_OUT, {"output": "partial\nCommand timed out after 5 seconds", "exit_code": 124, "error": None}),
        (
            result(exit_code=126, error="no such workdir"),
            {"output": "Command execution failed: no such workdir", "exit_code": -1, "error": None},
        ),
        (result(status=Status.CANCELLED), {"output": "", "exit_code": 130, "error": None}),
        (
            UNKNOWN,
            {"output": "", "exit_code": -1, "error": "Failed to execute command: no answer", "status": "error"},
        ),
        (
            LOST,
            {
                "output": "",
                "exit_code": -1,
                "error": f"Failed to execute command: {LOST.error}",
                "status": "error",
                "environment_recreated": RECREATED,
            },
        ),
    ],
)
def test_the_terminal_of_a_vm(ended: ToolResult, said: dict[str, Any]) -> None:
    """H4 to H7: ``error`` speaks of the tool, never of the command."""
    assert hecate(ended, {"command": "x"}) == said


def test_background_and_refusals_of_the_terminal_of_a_vm() -> None:
    """H4, H9."""
    started = result(exit_code=0, detail={"session_id": "proc_0123456789ab", "pid": 7})
    assert hecate(started, {"background": True}) == {
        "output": "Background task started successfully",
        "exit_code": 0,
        "error": None,
        "session_id": "proc_0123456789ab",
        "pid": 7,
    }
    assert hecate_disabled("no key") == {"output": "", "exit_code": -1, "error": "no key", "status": "disabled"}
    assert hecate_failure("why")["error"] == "Failed to execute command: why"


@pytest.mark.parametrize(
    ("arguments", "ended", "said"),
    [
        ({"action": "list"}, result("process"), {"processes": []}),
        (
            {"action": "poll", "session_id": "proc_1"},
            result("process", output="x" * 2_000, detail={"session_id": "proc_1", "status": "running", "note": None}),
            {"session_id": "proc_1", "status": "running", "output_preview": "x" * 1_000},
        ),
        (
            {"action": "log", "session_id": "proc_1"},
            result("process", output="a\nb\n", detail={"total_lines": 2, "showing": "2 lines"}),
            {"total_lines": 2, "showing": "2 lines", "output": "a\nb\n"},
        ),
        (
            {"action": "wait", "session_id": "proc_1"},
            result("process", output="done", detail={"status": "exited", "exit_code": 0}),
            {"status": "exited", "exit_code": 0, "output": "done"},
        ),
        (
            {"action": "wait", "session_id": "proc_1"},
            result("process", status=Status.CANCELLED),
            {"output": "", "status": "interrupted"},
        ),
        (
            {"action": "poll", "session_id": "proc_1"},
            result("process", error="No process with ID proc_1", detail={"status": "not_found"}),
            {"status": "not_found", "error": "No process with ID proc_1"},
        ),
        (
            {"action": "wait", "session_id": "proc_1"},
            result("process", status=Status.TIMEOUT, output="so far", detail={"timeout": 600.0}),
            {"output": "so far", "status": "timeout", "timeout": 600.0},
        ),
        (
            {"action": "kill"},
            result("process", status=Status.REJECTED, error="session_id is required for kill"),
            {"error": "session_id is required for kill"},
        ),
    ],
)
def test_process(arguments: dict[str, Any], ended: ToolResult, said: dict[str, Any]) -> None:
    """B7."""
    assert reply(ended, arguments) == said


@pytest.mark.parametrize(
    ("ended", "arguments", "said"),
    [
        (
            result("read_file", stdout="a\n" + "b" * 3_000),
            {"path": "/f", "offset": 9},
            {"content": "     9|a\n    10|" + "b" * 2_000, "truncated": False},
        ),
        (
            result("read_file", detail={"content": "     1|a", "total_lines": 1, "file_size": 2, "similar_files": []}),
            {"path": "/f"},
            {"content": "     1|a", "truncated": False, "total_lines": 1, "file_size": 2},
        ),
        (
            result("read_file", error="File not found: /f", detail={"similar_files": ["/g"]}),
            {"path": "/f"},
            {"error": "File not found: /f", "similar_files": ["/g"]},
        ),
        (
            result("write_file"),
            {"path": "/f", "content": "é"},
            {"bytes_written": 2, "dirs_created": False},
        ),
        (
            result("write_file", detail={"bytes_written": 3, "dirs_created": True, "verified": True}),
            {"path": "/f", "content": "é"},
            {"bytes_written": 3, "dirs_created": True, "verified": True},
        ),
        (result("write_file", error="no room"), {"path": "/f", "content": ""}, {"error": "no room"}),
        (
            result("patch", detail={"diff": "-a\n+b\n", "files_modified": ["/f"], "files_created": []}),
            {"mode": "replace"},
            {"success": True, "diff": "-a\n+b\n", "files_modified": ["/f"]},
        ),
        (result("patch", error="not found"), {}, {"success": False, "error": "not found"}),
        (
            result("search_files", detail={"total_count": 1, "matches": [{"path": "/f", "line": 1, "content": "a"}]}),
            {},
            {"total_count": 1, "matches": [{"path": "/f", "line": 1, "content": "a"}], "truncated": False},
        ),
        (result("search_files", error="bad pattern"), {}, {"error": "bad pattern"}),
    ],
)
def test_files(ended: ToolResult, arguments: dict[str, Any], said: dict[str, Any]) -> None:
    """B9, B10."""
    assert reply(ended, arguments) == said


@pytest.mark.parametrize("tool", ["read_file", "write_file", "patch", "search_files", "process", "web_search"])
def test_an_outage_is_told_as_one_whatever_the_tool(tool: str) -> None:
    """N5, F15."""
    said = reply(LOST.model_copy(update={"name": tool}), {"action": "list"})
    assert (said["status"], said["reason"], said["environment_recreated"]) == ("degraded", "lost", RECREATED)
    assert said["error"] == LOST.error


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (result("web_search", output='{"results": []}'), {"results": []}),
        (result("web_search", output="plain"), {"output": "plain"}),
        (result("web_search", output="[1]", detail={"pages": 1}), {"output": "[1]", "pages": 1}),
        (result("web_search", error="no answer"), {"error": "no answer"}),
        (result("web_search", status=Status.TIMEOUT), {"error": "the call was timeout"}),
    ],
)
def test_a_tool_without_a_shape_of_its_own(ended: ToolResult, said: dict[str, Any]) -> None:
    assert reply(ended, {}) == said


def test_an_unknown_tool_is_told_with_those_there_are() -> None:
    """L5."""
    detail = {"refusal": "UnknownTool", "available": ["terminal", "patch"]}
    ended = result("terminla", status=Status.REJECTED, error="...", detail=detail)
    assert reply(ended, {}) == {"error": "Unknown tool 'terminla'. Available tools: ['patch', 'terminal']"}
    assert unknown_tool("x", {"b", "a"}) == {"error": "Unknown tool 'x'. Available tools: ['a', 'b']"}


def test_a_call_that_could_not_be_made_is_told_by_its_error() -> None:
    """L5."""
    full = reply_of_error("terminal", FleetSaturated("no slot"))
    assert full == {
        "output": "",
        "exit_code": -1,
        "error": "Tool execution failed: FleetSaturated: no slot",
        "status": "degraded",
        "reason": "FleetSaturated",
        "retry_hint": AGAIN,
    }
    assert reply_of_error("read_file", TrajectoryClosed("reaped"))["environment_recreated"] == RECREATED
    invalid = reply_of_error("read_file", InvalidArguments("no JSON"))
    assert invalid == {"error": "Tool execution failed: InvalidArguments: no JSON"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    tool=st.sampled_from(["terminal", "process", "read_file", "write_file", "patch", "search_files", "web_search"]),
    status=st.sampled_from(Status),
    detail=st.dictionaries(st.text(), JSON, max_size=4),
    arguments=st.dictionaries(st.sampled_from(["action", "background", "content", "session_id"]), JSON),
    output=st.text(),
    error=st.none() | st.text(),
)
def test_every_result_has_a_reply_that_is_json(
    tool: str, status: Status, detail: dict[str, Any], arguments: dict[str, Any], output: str, error: str | None
) -> None:
    ended = result(tool, status, output=output, error=error, detail=detail)
    assert isinstance(json.loads(as_json(reply(ended, arguments))), dict)
