"""What a tool is: typed arguments, a request for the runner, and how its outcome is shown."""

import difflib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from toolfleet.backends.base import Operation, Outcome
from toolfleet.config.errors import InvalidArguments, UnknownTool

#: Largest part of a model's own words that an error message repeats.
QUOTED = 200
#: Wrong fields that an error message names at most.
SHOWN = 10


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


@dataclass(frozen=True, slots=True)
class Plan:
    """A request for the runner, without its id and deadline."""

    op: Operation
    args: dict[str, Any]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a result says of an outcome, before anything is cut to length."""

    output: str
    exit_code: int
    error: str | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Tool(Generic[A]):
    """One tool. ``plan`` turns its arguments into a request, ``show`` turns the outcome into what the model sees."""

    name: str
    description: str
    arguments: type[A]
    plan: Callable[[A], Plan]
    show: Callable[[Outcome, str, str], Shown]
    """Gets the outcome and its stdout and stderr as text."""


@dataclass
class ToolRegistry:
    """Tools by name."""

    tools: Iterable[Tool[Any]]
    _by_name: dict[str, Tool[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._by_name = {tool.name: tool for tool in self.tools}

    def get(self, name: str) -> Tool[Any]:
        """The tool ``name``.

        Raises:
            UnknownTool: there is none; the message lists those there are.
        """
        if name not in self._by_name:
            near = difflib.get_close_matches(name, self._by_name, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownTool(f"unknown tool {name[:QUOTED]!r}; available: {', '.join(sorted(self._by_name))}.{hint}")
        return self._by_name[name]


def parse(tool: Tool[A], arguments: dict[str, Any] | str) -> A:
    """Check ``arguments``, or the JSON text of them, against the tool's schema.

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
    try:
        return tool.arguments.model_validate(arguments)
    except ValidationError as error:
        wrong = "; ".join(_explain(e["loc"], e["msg"]) for e in error.errors(include_url=False)[:SHOWN])
        raise InvalidArguments(f"arguments of {tool.name}: {wrong}") from None


def _explain(loc: tuple[int | str, ...], message: str) -> str:
    where = ".".join(map(str, loc)) or "arguments"
    return f"{where[:QUOTED]}: {message[:QUOTED]}"
