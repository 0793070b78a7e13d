"""What an Atropos environment reads of each ending: B4's strings, and whose fault it was."""

from typing import Any

import pytest

from toolfleet.config.contract import FAULT_OF, Status, ToolResult
from toolfleet.config.errors import (
    FleetError,
    FleetSaturated,
    InvalidCall,
    NoWorkerForProfile,
    RedisUnavailable,
    TrajectoryClosed,
)
from toolfleet.config.profile import Profile
from toolfleet.producer.adapters.envelope import Reply, failed, reply, whole_file

PROFILE = Profile()


def result(status: Status = Status.OK, **fields: Any) -> ToolResult:
    """A result as a worker makes it."""
    given = {"call_id": "c", "trajectory_id": "t", "name": "terminal", "executed": "yes", **fields}
    return ToolResult(status=status, fault=FAULT_OF[status], **given)


def shown(tool: str, seen: ToolResult, arguments: dict[str, Any] | None = None, timeout: float = 30) -> Reply:
    """What the environment gets."""
    return reply(tool, arguments or {}, timeout, seen, PROFILE)


class TestShell:
    def test_a_command_that_succeeds(self) -> None:
        seen = shown("terminal", result(stdout="hi\n", output="hi\n", exit_code=0))
        assert (seen.success, seen.output, seen.error) == (True, "hi\n", "")
        assert (seen.metadata["exit_code"], seen.metadata["sandboxed"]) == (0, True)
        assert seen.metadata["network_isolated"] is True
        assert "timeout" not in seen.metadata

    def test_a_command_that_fails_shows_both_streams_and_its_exit_code(self) -> None:
        seen = shown("terminal", result(stdout="out", stderr="err", exit_code=3))
        assert (seen.success, seen.output, seen.error) == (False, "out\n[stderr]\nerr", "Exit code: 3")
        assert seen.metadata["exit_code"] == 3

    def test_a_timeout_keeps_what_was_printed(self) -> None:
        seen = shown("terminal", result(Status.TIMEOUT, stdout="half", exit_code=124), timeout=2.0)
        assert (seen.success, seen.output, seen.error) == (False, "half", "Command timed out after 2s")
        assert (seen.metadata["exit_code"], seen.metadata["timeout"], seen.metadata["fault"]) == (-1, True, "policy")

    def test_of_an_unknown_profile_nothing_is_said_about_its_network(self) -> None:
        assert "network_isolated" not in reply("terminal", {}, 30, result(exit_code=0), None).metadata

    @pytest.mark.parametrize(
        ("network", "isolated"), [("none", True), ("internal", True), ("bridge", False), ("host", False)]
    )
    def test_a_profile_with_a_network_says_so(self, network: Any, isolated: bool) -> None:
        seen = reply("terminal", {}, 30, result(exit_code=0), Profile(network=network))
        assert seen.metadata["network_isolated"] is isolated

    def test_a_process_in_the_background_says_how_it_began(self) -> None:
        seen = shown("terminal", result(exit_code=0, output="Background process started", detail={"session_id": "p"}))
        assert (seen.output, seen.metadata["session_id"]) == ("Background process started", "p")


class TestFiles:
    def test_a_written_file_is_told_with_its_bytes(self) -> None:
        seen = shown("write_file", result(exit_code=0), {"path": "a.txt", "content": "grüße"})
        assert (seen.success, seen.output) == (True, "Successfully wrote 7 bytes to a.txt")

    def test_a_read_file_is_its_text(self) -> None:
        assert shown("read_file", result(exit_code=0, stdout="text\n", output="     1|text")).output == "text\n"

    def test_a_missing_file_is_an_error(self) -> None:
        seen = shown("read_file", result(exit_code=1, error="File not found: a"))
        assert (seen.success, seen.error) == (False, "File not found: a")

    def test_a_whole_file_is_its_content_which_is_not_told_twice(self) -> None:
        seen = whole_file(result(exit_code=0, detail={"content": "all", "truncated": False, "file_size": 3}))
        assert (seen.success, seen.output) == (True, "all")
        assert "content" not in seen.metadata

    def test_a_file_that_is_too_large_is_refused_and_not_cut(self) -> None:
        seen = whole_file(result(exit_code=0, detail={"content": "x", "truncated": True, "file_size": 100_001}))
        assert (seen.success, seen.output) == (False, "")
        assert seen.error == "File too large: 100001 bytes (max 100000)"

    def test_a_whole_file_that_is_missing_is_an_error(self) -> None:
        assert whole_file(result(exit_code=1, error="File not found: a")).error == "File not found: a"


class TestInfrastructure:
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (Status.FAILED, "Failed to acquire slot: why"),
            (Status.LOST, "Batch execution failed: why"),
            (Status.UNKNOWN, "Batch execution failed: why"),
        ],
    )
    def test_its_failures_are_named_and_can_be_masked(self, status: Status, error: str) -> None:
        seen = shown("terminal", result(status, error="why"))
        assert (seen.success, seen.error, seen.metadata["fault"]) == (False, error, "infrastructure")
        assert seen.metadata["status"] == status

    @pytest.mark.parametrize("kind", [FleetSaturated, NoWorkerForProfile, RedisUnavailable, TrajectoryClosed])
    def test_no_slot_is_a_failure_to_acquire_one(self, kind: type[FleetError]) -> None:
        assert failed(kind("x")).error == "Failed to acquire slot: x"
        assert failed(kind("x")).metadata == {"status": "failed", "fault": "infrastructure", "executed": "no"}

    def test_a_call_that_can_never_run_is_the_models_fault(self) -> None:
        assert failed(InvalidCall("x")).metadata["fault"] == "policy"


def test_a_tools_own_detail_never_hides_whose_fault_an_ending_was() -> None:
    seen = shown("process", result(exit_code=0, detail={"fault": "none of yours", "pid": 7}))
    assert (seen.metadata["fault"], seen.metadata["pid"]) == ("none", 7)
