"""The wire format: calls and results survive the journey, and a fault follows from its status."""

import json
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from toolfleet.config.contract import (
    FAULT_OF,
    Executed,
    Fault,
    Status,
    Timing,
    ToolCall,
    ToolResult,
    clamp_timeout,
    ended,
    is_identifier,
    new_id,
)

CALL = ToolCall(call_id="c1", trajectory_id="t1", name="terminal", arguments={"command": "ls"})

printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


class TestRoundTrips:
    @given(
        st.builds(
            ToolCall,
            call_id=printable,
            trajectory_id=printable,
            name=text,
            arguments=st.dictionaries(text, json_values, max_size=4) | text,
            timeout=st.none() | st.floats(allow_nan=False, allow_infinity=False),
            parallel=st.booleans(),
            producer=text,
            profile=st.sampled_from(["default", "gpu-1", "a.b_c"]),
        )
    )
    def test_call(self, call: ToolCall) -> None:
        assert ToolCall.model_validate_json(call.model_dump_json()) == call

    @given(
        st.builds(
            ToolResult,
            status=st.sampled_from(Status),
            fault=st.sampled_from(Fault),
            executed=st.sampled_from(get_args(Executed)),
            output=text,
            stdout=text,
            stderr=text,
            error=st.none() | text,
            exit_code=st.none() | st.integers(0, 255),
            timing=st.builds(Timing, ran=st.floats(0, 1e6)),
        )
    )
    def test_result(self, result: ToolResult) -> None:
        assert ToolResult.model_validate_json(result.model_dump_json()) == result

    @pytest.mark.parametrize("odd", ["\x00", "\x1b[31m", "\u2028", "\U0001f600", "\ufffd", "a\nb\r\n", '"\\'])
    def test_odd_characters_survive(self, odd: str) -> None:
        result = ended(CALL, Status.OK, executed="yes", output=odd, stdout=odd)
        assert ToolResult.model_validate_json(result.model_dump_json()).output == odd

    def test_fields_of_a_newer_peer_are_ignored(self) -> None:
        call = json.loads(CALL.model_dump_json()) | {"added_later": {"x": 1}}
        assert ToolCall.model_validate_json(json.dumps(call)) == CALL
        result = ended(CALL, Status.OK, executed="yes")
        newer = json.loads(result.model_dump_json()) | {"added_later": 1}
        newer["timing"]["added_later"] = 2.0
        assert ToolResult.model_validate_json(json.dumps(newer)) == result

    def test_what_a_script_writes_as_a_result_is_one(self) -> None:
        """The Lua scripts fill in the required fields only."""
        least = {
            "call_id": "c", "trajectory_id": "t", "name": "n", "status": "lost", "fault": "infrastructure",
            "executed": "unknown", "worker_id": "w", "attempts": 1, "error": "why",
        }  # fmt: skip
        assert ToolResult.model_validate(least).status is Status.LOST

    def test_messages_are_frozen(self) -> None:
        with pytest.raises(ValidationError):
            CALL.name = "other"  # type: ignore[misc]


class TestFault:
    def test_every_status_has_a_fault(self) -> None:
        assert set(FAULT_OF) == set(Status)

    @pytest.mark.parametrize("status", Status)
    def test_the_fault_of_a_result_follows_from_its_status(self, status: Status) -> None:
        assert ended(CALL, status, executed="unknown").fault is FAULT_OF[status]

    def test_the_policy_is_blamed_for_its_own_doing_and_nothing_else(self) -> None:
        """The table of DESIGN.md, section 4."""
        assert {s for s, f in FAULT_OF.items() if f is Fault.POLICY} == {Status.TIMEOUT, Status.REJECTED}
        assert {s for s, f in FAULT_OF.items() if f is Fault.INFRASTRUCTURE} == {
            Status.FAILED, Status.LOST, Status.UNKNOWN,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("status", "exit_code", "ok"),
        [(Status.OK, 0, True), (Status.OK, None, True), (Status.OK, 1, False), (Status.TIMEOUT, 0, False)],
    )
    def test_ok_means_that_the_command_succeeded(self, status: Status, exit_code: int | None, ok: bool) -> None:
        assert ended(CALL, status, executed="yes", exit_code=exit_code).ok is ok

    def test_a_result_carries_the_ids_of_its_call(self) -> None:
        result = ended(CALL, Status.LOST, executed="no", error="why", attempts=2)
        assert (result.call_id, result.trajectory_id, result.name) == ("c1", "t1", "terminal")
        assert (result.error, result.attempts) == ("why", 2)


class TestIdentifiers:
    @pytest.mark.parametrize("good", ["a", "x" * 200, "t-1/2:3", "!~", "{x}"])
    def test_printable_ones_are_taken(self, good: str) -> None:
        assert is_identifier(good)
        assert ToolCall(call_id=good, trajectory_id=good, name="n").call_id == good

    @pytest.mark.parametrize("bad", ["", "x" * 201, "a b", "a\n", "\ta", "é", "\x00", "a\x7f"])
    def test_others_are_refused_by_the_function_and_by_the_model_alike(self, bad: str) -> None:
        assert not is_identifier(bad)
        with pytest.raises(ValidationError):
            ToolCall(call_id=bad, trajectory_id="t", name="n")
        with pytest.raises(ValidationError):
            ToolCall(call_id="c", trajectory_id=bad, name="n")

    def test_new_ids_differ_and_are_identifiers(self) -> None:
        made = {new_id("call") for _ in range(1000)}
        assert len(made) == 1000
        assert all(is_identifier(one) and one.startswith("call_") for one in made)


class TestClampTimeout:
    @pytest.mark.parametrize(
        ("asked", "granted"),
        [
            (30, 30.0),
            (0.2, 1.0),
            (0, 1.0),
            (-5, 1.0),
            (601, 600.0),
            (math.inf, 600.0),
            (-math.inf, 1.0),
            (10**400, 600.0),
            (-(10**400), 1.0),
        ],
        ids=lambda value: f"{value:.0e}" if isinstance(value, float) else str(value)[:9],
    )
    def test_a_number_is_cut_to_what_is_allowed(self, asked: float, granted: float) -> None:
        clamped = clamp_timeout(asked, 600.0)
        assert clamped == granted
        assert isinstance(clamped, float)

    def test_the_longest_wins_when_it_is_below_a_second(self) -> None:
        assert clamp_timeout(30, 0.5) == 0.5

    @pytest.mark.parametrize("asked", [math.nan, True, False, "30", None, [], {}, b"1", 1j])
    def test_what_is_no_number_of_seconds_is_refused(self, asked: object) -> None:
        with pytest.raises(ValueError, match="must be a number of seconds"):
            clamp_timeout(asked, 600.0)  # type: ignore[arg-type]

    @given(st.floats(allow_nan=False) | st.integers())
    def test_never_outside_the_bounds(self, asked: float) -> None:
        assert 1.0 <= clamp_timeout(asked, 600.0) <= 600.0
