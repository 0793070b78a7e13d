"""Tool calls in the text of a model: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

_OPENING = "<tool_call>"
#: A block, or what follows the last opening tag of a text that was cut off.
_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call that a model asks for."""

    id: str
    name: str
    arguments: str
    """JSON text of an object, or the string that the model gave in its place, unchanged."""

    def as_openai(self) -> dict[str, Any]:
        """The call as it stands in an assistant message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class ModelTurn:
    """What a model said: its words before the first call, and its calls."""

    content: str | None
    calls: tuple[ModelCall, ...]

    def as_openai(self) -> dict[str, Any]:
        """The turn as an assistant message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or ""}
        if self.calls:
            message["tool_calls"] = [call.as_openai() for call in self.calls]
        return message


def parse_hermes(text: str) -> ModelTurn:
    """The calls in ``text``; a block that holds none is skipped, and with no call at all the text is only words."""
    calls = tuple(call for block in _BLOCK.findall(text) if (call := _call(block)) is not None)
    if not calls:
        return ModelTurn(text, ())
    return ModelTurn(text[: text.index(_OPENING)].strip() or None, calls)


def _call(block: str) -> ModelCall | None:
    try:
        said = json.loads(block)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str) or not said["name"]:
        return None
    arguments = said.get("arguments", {})
    # A string is what the model means to be the JSON already: encoding it would put it into quotes once more.
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ModelCall(f"call_{secrets.token_hex(4)}", said["name"], written)
