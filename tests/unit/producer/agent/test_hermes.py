"""L5: calls in a model's text, as a Hermes model writes them."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.producer.agent import ModelTurn, parse_hermes


def test_a_call_gets_an_id_and_the_words_before_it_are_kept() -> None:
    turn = parse_hermes(
        'Let me look.\n<tool_call>\n{"name": "terminal", "arguments": {"command": "ls é"}}\n</tool_call>'
    )
    (call,) = turn.calls
    assert (turn.content, call.name, call.arguments) == ("Let me look.", "terminal", '{"command": "ls é"}')
    assert re.fullmatch(r"call_[0-9a-f]{8}", call.id)
    assert turn.as_openai()["tool_calls"] == [
        {"id": call.id, "type": "function", "function": {"name": "terminal", "arguments": '{"command": "ls é"}'}}
    ]


def test_a_string_of_arguments_passes_unchanged() -> None:
    (call,) = parse_hermes('<tool_call>{"name": "t", "arguments": "{\\"a\\": 1}"}</tool_call>').calls
    assert call.arguments == '{"a": 1}'


@pytest.mark.parametrize(
    "block",
    ["", "{", "[]", "null", '{"arguments": {}}', '{"name": 7}', '{"name": ""}', "[" * 100_000],
)
def test_a_malformed_block_is_skipped_and_the_others_count(block: str) -> None:
    good = '<tool_call>{"name": "good"}</tool_call>'
    turn = parse_hermes(f"<tool_call>{block}</tool_call>{good}")
    assert [(call.name, call.arguments) for call in turn.calls] == [("good", "{}")]
    alone = f"words <tool_call>{block}</tool_call>"
    assert parse_hermes(alone) == ModelTurn(alone, ())


def test_a_call_at_the_end_of_a_text_that_was_cut_off_counts_when_it_is_whole() -> None:
    assert [call.name for call in parse_hermes('<tool_call>{"name": "whole"}').calls] == ["whole"]
    assert not parse_hermes('<tool_call>{"name": "who').calls


def test_calls_alone_leave_no_words() -> None:
    assert parse_hermes('<tool_call>{"name": "a"}</tool_call>').content is None


@given(st.lists(st.tuples(st.text(min_size=1), st.dictionaries(st.text(), st.integers() | st.text())), max_size=5))
def test_what_was_written_is_read(calls: list[tuple[str, dict[str, object]]]) -> None:
    text = "".join(
        f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>" for name, arguments in calls
    )
    if "</tool_call>" in json.dumps(calls):
        return
    assert [(call.name, json.loads(call.arguments)) for call in parse_hermes(text).calls] == calls


@given(st.text(alphabet=st.sampled_from('<>/{}"tool_call name:,')) | st.text())
def test_no_text_breaks_it(text: str) -> None:
    turn = parse_hermes(text)
    assert turn.calls or turn.content == text
