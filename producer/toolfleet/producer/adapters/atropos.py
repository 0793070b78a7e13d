"""Tool schemas, calls and results as an Atropos environment knows them."""

import json
import re
import uuid
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class ToolSchema(BaseModel):
    """A tool as it is told to a model."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    parameters: dict[str, Any] = {}
    """JSON schema of each argument, by its name."""
    required: list[str] = []
    external: bool = False
    """Runs at a ToolServer, not in the sandbox."""

    def to_dict(self) -> dict[str, Any]:
        """The schema as a function tool of OpenAI's."""
        parameters = {"type": "object", "properties": self.parameters, "required": self.required}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }


class ToolCall(BaseModel):
    """One call that a model made."""

    model_config = ConfigDict(frozen=True)

    name: str
    arguments: dict[str, Any] = {}
    raw_text: str = ""
    """What the model wrote."""
    uniq_id: str = Field(default_factory=lambda: str(uuid.uuid4()))

    @classmethod
    def parse_from_text(cls, text: str) -> list[Self]:
        """The calls in a model's text, each a JSON object within ``<tool_call>``; what is malformed is skipped."""
        found = (cls._parse(match[1].strip()) for match in _CALL.finditer(text))
        return [call for call in found if call is not None]

    @classmethod
    def _parse(cls, raw: str) -> Self | None:
        try:
            fields = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict):
            return None
        given = fields.get("uniq_id") or fields.get("id")
        ident = {"uniq_id": str(given)} if given else {}
        try:
            return cls(name=fields.get("name"), arguments=fields.get("arguments", {}), raw_text=raw, **ident)
        except ValidationError:
            return None


class ToolResult(BaseModel):
    """What became of a call. ``metadata`` holds ``status`` and ``fault``: mask those of ``infrastructure``."""

    success: bool
    output: str = ""
    error: str = ""
    metadata: dict[str, Any] = {}
    uniq_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return self.model_dump(mode="json")

    def to_xml(self) -> str:
        """The result as the model reads it; ``uniq_id``, ``error`` and ``metadata`` only where there are any."""
        said = self.model_dump(mode="json", include={"success", "output"})
        said |= {key: value for key in ("uniq_id", "error", "metadata") if (value := getattr(self, key))}
        # A command may print the closing tag: escaped it stays part of the text.
        text = json.dumps(said, ensure_ascii=False).replace("</", r"<\/")
        return f"<tool_response>{text}</tool_response>"
