"""A conversation cut to what a model's context holds, for one turn; the conversation itself stays whole.

Cuts are made in one fixed order, the fewest that suffice. So a smaller limit makes more cuts, never others, and a view
cut again to the same limit is the same view.

1. Replies of tools in the middle lose their own middle, oldest first.
2. Blocks of the middle are left out, oldest first.
3. Replies in the last messages lose their middle too, oldest first.

A *block* is a message that calls tools together with all replies to it, or any other message alone. Blocks stay or go
whole: a reply without its call is refused by every provider.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Message = Mapping[str, Any]

#: Messages at the beginning and the end that are never left out.
FIRST, LAST = 2, 6
#: A tool's reply is cut when it is longer, to so many characters of its beginning and its end.
LONG_REPLY, REPLY_HEAD, REPLY_TAIL = 200, 100, 50
_MARKER = "\n[... cut from the view ...]\n"

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 10
_TOKENS_PER_CALL = 50


@dataclass(frozen=True, slots=True)
class ContextView:
    """What a model is shown."""

    messages: list[Message]
    tokens: int
    """Tokens of ``messages``, as counted."""
    shortened: int
    """Replies of tools that were cut."""
    dropped: int
    """Messages that were left out."""
    fits: bool
    """False when the limit cannot be held: the first and the last messages alone are too large."""


def estimate(message: Message) -> int:
    """Tokens of one message, roughly: a quarter of its characters, and something for its frame and each call.

    Arguments of calls count by their length where that is more.
    """
    calls = message.get("tool_calls") or ()
    return _characters(message) // _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE + sum(map(_call_tokens, calls))


def view(
    messages: Sequence[Message], limit: int, *, count: Callable[[Message], int] = estimate, reserve: int = 0
) -> ContextView:
    """The part of ``messages`` that fits into ``limit`` tokens.

    Args:
        messages: a conversation in OpenAI's format; neither it nor a message in it is changed.
        limit: tokens, usually the model's context less the tokens it may write.
        count: tokens of one message; the model's own tokenizer counts better than `estimate`.
        reserve: tokens for what is sent beside the messages, above all the schemas of the tools.
    """
    shown = dict(enumerate(messages))
    sizes = {position: count(message) for position, message in shown.items()}
    tokens = sum(sizes.values()) + reserve
    shortened: set[int] = set()
    for cut in _cuts(messages):
        if tokens <= limit:
            break
        tokens -= sum(sizes[position] for position in cut.positions)
        for position in cut.positions:
            if cut.whole:
                del shown[position]
                shortened.discard(position)
                continue
            shown[position] = _shortened(shown[position])
            sizes[position] = count(shown[position])
            tokens += sizes[position]
            shortened.add(position)
    dropped = len(messages) - len(shown)
    return ContextView(list(shown.values()), tokens - reserve, len(shortened), dropped, tokens <= limit)


class _Cut(NamedTuple):
    positions: Sequence[int]
    whole: bool
    """The messages go, instead of losing their middle."""


def _cuts(messages: Sequence[Message]) -> Iterator[_Cut]:
    """All cuts that may be made, in their order."""
    begin_of_last = len(messages) - LAST
    blocks = [block for block in _blocks(messages) if block[0] >= FIRST]
    middle = [block for block in blocks if block[-1] < begin_of_last]
    last = [block for block in blocks if block[-1] >= begin_of_last]
    yield from (_Cut([position], whole=False) for position in _long_replies(messages, middle))
    yield from (_Cut(block, whole=True) for block in middle)
    yield from (_Cut([position], whole=False) for position in _long_replies(messages, last))


def _blocks(messages: Sequence[Message]) -> list[list[int]]:
    """The positions of each block's messages, ascending; blocks in the order in which they begin."""
    blocks: list[list[int]] = []
    callers: dict[object, list[int]] = {}
    for position, message in enumerate(messages):
        # A reply without an id belongs to whoever called last.
        caller = callers.get(message.get("tool_call_id")) if message.get("role") == "tool" else None
        if caller is not None:
            caller.append(position)
            continue
        block = [position]
        blocks.append(block)
        if calls := message.get("tool_calls"):
            callers[None] = block
            callers.update({call.get("id"): block for call in calls})
    return blocks


def _long_replies(messages: Sequence[Message], blocks: Sequence[Sequence[int]]) -> list[int]:
    return sorted(position for block in blocks for position in block if _is_long_reply(messages[position]))


def _is_long_reply(message: Message) -> bool:
    content = message.get("content")
    return message.get("role") == "tool" and isinstance(content, str) and len(content) > LONG_REPLY


def _shortened(message: Message) -> Message:
    content = message["content"]
    return {**message, "content": f"{content[:REPLY_HEAD]}{_MARKER}{content[-REPLY_TAIL:]}"}


def _characters(message: Message) -> int:
    """Characters of what a message says; pictures and the like in a list of parts are not counted."""
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    return sum(len(str(part.get("text") or "")) for part in content if isinstance(part, Mapping))


def _call_tokens(call: Mapping[str, Any]) -> int:
    arguments = (call.get("function") or {}).get("arguments")
    written = len(arguments) // _CHARACTERS_PER_TOKEN if isinstance(arguments, str) else 0
    return max(_TOKENS_PER_CALL, written)
