"""What both sides know of a tool: its name, what it is for, its typed arguments, and where it runs.

Workers add what it does (``toolfleet.workers.tools``); producers tell models about it.
"""

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from toolfleet.config.errors import InvalidArguments, UnknownTool

#: Largest part of a model's own words that an error message repeats.
QUOTED = 200
#: Wrong fields that an error message names at most.
SHOWN = 10
#: Arguments that profiles decide; predecessors passed them along with the model's, and a model may still write them.
POLICY_ARGUMENTS = frozenset({"allow_network", "require_sandbox", "require_stateful_sandbox"})

Where = Literal["sandbox", "worker", "external"]
"""``sandbox``: in the trajectory's sandbox. ``worker``: in the process that serves it.
``external``: on a ToolServer."""


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("Input should be a valid number of seconds")  # noqa: TRY004 - pydantic wants a ValueError
    return value


class Arguments(BaseModel):
    """Base of every tool's arguments; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout: Annotated[float, BeforeValidator(_not_bool)] | None = None
    """Seconds the tool may run."""


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True)
class Definition(Generic[A]):
    """One tool, as a model and both sides of the wire know it."""

    name: str
    description: str
    """What a model reads."""
    arguments: type[A]
    where: Where = "sandbox"
    aliases: tuple[str, ...] = ()
    """Further names by which it is called; they are understood, not advertised."""
    hidden: bool = False
    """Only for calls that a producer makes on its own behalf: models are not told, and cannot call it."""

    def schema(self) -> dict[str, Any]:
        """The tool in the format of OpenAI's function tools: ``{"type": "function", "function": {...}}``."""
        parameters = self.arguments.model_json_schema()
        parameters.pop("title", None)
        parameters.pop("description", None)
        for described in parameters.get("properties", {}).values():
            described.pop("title", None)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


class Catalogue:
    """Tools by name and alias."""

    def __init__(self, definitions: Iterable[Definition[Any]]) -> None:
        self._named = {tool.name: tool for tool in sorted(definitions, key=lambda tool: tool.name)}
        self._known = {alias: tool for tool in self._named.values() for alias in tool.aliases} | self._named

    def __iter__(self) -> Iterator[Definition[Any]]:
        """The tools that models may know, in the order of their names."""
        return (tool for tool in self._named.values() if not tool.hidden)

    def get(self, name: str, *, hidden: bool = False) -> Definition[Any]:
        """The tool of this name or alias; a hidden one only if asked for.

        Raises:
            UnknownTool: there is none; the message lists those there are.
        """
        found = self._known.get(name)
        if found is None or (found.hidden and not hidden):
            near = difflib.get_close_matches(name, [n for n, tool in self._known.items() if not tool.hidden], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            available = ", ".join(tool.name for tool in self)
            raise UnknownTool(f"unknown tool {name[:QUOTED]!r}; available: {available}.{hint}")
        return found

    def schemas(self, allowed: Collection[str] | None = None) -> list[dict[str, Any]]:
        """What a model is told: `Definition.schema` of each tool, or of those whose name is ``allowed``."""
        return [tool.schema() for tool in self if allowed is None or tool.name in allowed]


def parse(tool: Definition[A], arguments: Mapping[str, Any] | str) -> A:
    """Check ``arguments``, or the JSON text of them, against the tool's schema; `POLICY_ARGUMENTS` are dropped.

    Raises:
        InvalidArguments: they do not fit; the message names every field that is wrong.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise InvalidArguments(f"arguments of {tool.name} are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise InvalidArguments(f"arguments of {tool.name} must be a JSON object, not {type(arguments).__name__}")
    if not POLICY_ARGUMENTS.isdisjoint(arguments):
        arguments = {name: value for name, value in arguments.items() if name not in POLICY_ARGUMENTS}
    try:
        return tool.arguments.model_validate(arguments)
    except ValidationError as error:
        wrong = "; ".join(_explain(e["loc"], e["msg"]) for e in error.errors(include_url=False)[:SHOWN])
        raise InvalidArguments(f"arguments of {tool.name}: {wrong}") from None


def _explain(loc: tuple[int | str, ...], message: str) -> str:
    where = ".".join(map(str, loc)) or "arguments"
    return f"{where[:QUOTED]}: {message[:QUOTED]}"
