"""L4: what a model is shown fits its context, and no reply is ever shown without its call."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.producer.agent import estimate, view
from toolfleet.producer.agent.context import FIRST, LAST, LONG_REPLY

Message = dict[str, Any]


def call_message(*ids: str, arguments: str = "{}") -> Message:
    calls = [{"id": i, "type": "function", "function": {"name": "terminal", "arguments": arguments}} for i in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def reply(ident: str, content: str) -> Message:
    return {"role": "tool", "tool_call_id": ident, "content": content}


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """A system prompt, a task, and turns with up to nine calls each."""
    said = st.integers(0, 2_000).map(lambda n: "x" * n)
    messages: list[Message] = [{"role": "system", "content": draw(said)}, {"role": "user", "content": draw(said)}]
    for turn in range(draw(st.integers(0, 12))):
        ids = [f"call-{turn}-{n}" for n in range(draw(st.integers(0, 9)))]
        messages.append(call_message(*ids) if ids else {"role": "assistant", "content": draw(said)})
        messages += [reply(ident, draw(said)) for ident in ids]
        if draw(st.booleans()):
            messages.append({"role": "user", "content": draw(said)})
    return messages


def orphans(messages: list[Message]) -> list[str]:
    """Replies before which nobody has called."""
    called: set[str] = set()
    lost = []
    for message in messages:
        called |= {call["id"] for call in message.get("tool_calls") or ()}
        if message["role"] == "tool" and message["tool_call_id"] not in called:
            lost.append(message["tool_call_id"])
    return lost


def unanswered(messages: list[Message]) -> set[str]:
    """Calls to which there is no reply."""
    called = {call["id"] for message in messages for call in message.get("tool_calls") or ()}
    return called - {message["tool_call_id"] for message in messages if message["role"] == "tool"}


@given(conversations(), st.integers(0, 6_000))
def test_calls_and_their_replies_stay_together(messages: list[Message], limit: int) -> None:
    """Defect 35: a provider refuses a reply without its call."""
    shown = [dict(message) for message in view(messages, limit).messages]
    assert not orphans(shown)
    assert not unanswered(shown)


@given(conversations(), st.integers(0, 6_000))
def test_it_fits_or_says_that_it_does_not_and_leaves_the_conversation_alone(
    messages: list[Message], limit: int
) -> None:
    before = copy.deepcopy(messages)
    cut = view(messages, limit)
    assert messages == before
    assert cut.tokens == sum(map(estimate, cut.messages))
    assert cut.fits == (cut.tokens <= limit)
    assert len(cut.messages) + cut.dropped == len(messages)
    assert [*map(id, cut.messages[:FIRST])] == [*map(id, messages[:FIRST])]
    tail = [m.get("tool_call_id") or m["role"] for m in messages[-LAST:]]
    assert [m.get("tool_call_id") or m["role"] for m in cut.messages[-LAST:]] == tail


@given(conversations(), st.integers(0, 6_000), st.integers(0, 3_000))
def test_a_smaller_limit_makes_more_cuts_and_never_others(messages: list[Message], limit: int, less: int) -> None:
    wide, narrow = view(messages, limit), view(messages, max(limit - less, 0))
    assert narrow.tokens <= wide.tokens
    assert narrow.dropped >= wide.dropped
    wide_said = {str(m.get("tool_call_id")): len(m["content"]) for m in wide.messages if m["role"] == "tool"}
    for message in narrow.messages:
        if message["role"] == "tool":
            assert len(message["content"]) <= wide_said[message["tool_call_id"]]


@given(conversations(), st.integers(0, 6_000))
def test_a_view_of_a_view_is_the_same(messages: list[Message], limit: int) -> None:
    once = view(messages, limit)
    assert view(once.messages, limit).messages == once.messages


def test_the_estimate_counts_characters_frames_and_calls() -> None:
    assert estimate({"role": "user", "content": "x" * 43}) == 10 + 10
    assert estimate({"role": "assistant", "content": None}) == 10
    assert estimate(call_message("a", "b")) == 10 + 2 * 50
    assert estimate({"role": "user", "content": [{"type": "text", "text": "x" * 40}, {"type": "image_url"}]}) == 20


def test_long_arguments_count_by_their_length() -> None:
    """Defect 35: 50 tokens for a call that carries a whole file hid what it costs."""
    assert estimate(call_message("a", arguments="x" * 4_000)) == 10 + 1_000


def test_the_replies_in_the_middle_are_shortened_first_and_oldest_first() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    for n in range(6):
        messages += [call_message(f"c{n}"), reply(f"c{n}", "h" * 100 + "m" * 1_000 + "t" * 50)]
    whole = sum(map(estimate, messages))
    cut = view(messages, whole - 1)
    assert (cut.shortened, cut.dropped, cut.fits) == (1, 0, True)
    short = cut.messages[3]["content"]
    assert short.startswith("h" * 100 + "\n[")
    assert short.endswith("]\n" + "t" * 50)
    assert len(short) <= LONG_REPLY
    assert cut.messages[4:] == messages[4:]


def test_then_the_oldest_turns_go_whole() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    for n in range(6):
        messages += [call_message(f"c{n}", f"d{n}"), reply(f"c{n}", "short"), reply(f"d{n}", "short")]
    cut = view(messages, sum(map(estimate, messages)) - 1)
    assert (cut.shortened, cut.dropped) == (0, 3)
    assert cut.messages == messages[:2] + messages[5:]


@pytest.mark.parametrize("calls", [8, 20])
def test_many_calls_at_once_take_their_caller_into_the_last_messages(calls: int) -> None:
    """Defect 35 as it was found: the replies were among the last six, and the message that called them was not."""
    ids = [f"c{n}" for n in range(calls)]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    messages += [
        {"role": "assistant", "content": "x" * 4_000},
        call_message(*ids),
        *(reply(i, "y" * 4_000) for i in ids),
    ]
    cut = view(messages, 2_500)
    assert cut.dropped == 1
    assert cut.messages[2]["tool_calls"] == messages[3]["tool_calls"]
    assert len(cut.messages) == 3 + calls
    assert cut.fits


def test_a_limit_that_cannot_be_held_is_reported() -> None:
    cut = view([{"role": "user", "content": "x" * 4_000}], 10)
    assert (cut.fits, cut.tokens, len(cut.messages)) == (False, 1_010, 1)


def test_room_is_reserved_and_tokens_are_counted_by_whoever_knows() -> None:
    messages = [{"role": "user", "content": str(n)} for n in range(20)]
    assert view(messages, 20, count=lambda _: 1).dropped == 0
    assert view(messages, 20, count=lambda _: 1, reserve=5).dropped == 5
