"""What a tool does: requests to the runner, one after another, and how their outcomes are shown."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from toolfleet.backends.base import Operation, Outcome
from toolfleet.config.tools.base import Arguments, Catalogue, Definition

A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request for the runner, without its id and deadline."""

    op: Operation
    args: dict[str, Any]
    body: bytes = b""
    content_beside: bool = False
    """The body lies beside the ledger, where the producer has put it under the call's id."""
    binary: bool = False
    """What it prints is no text; the `Seen` holds none."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The outcome of a request, and its streams as text, each cut to the length of a result's."""

    outcome: Outcome
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a result says of a tool's work, before anything is cut to length."""

    output: str
    exit_code: int
    error: str | None = None
    truncated: bool = False
    detail: dict[str, Any] = field(default_factory=dict)
    """See `toolfleet.config.contract.ToolResult.detail`."""
    stdout: str | None = None
    """What a program reads, where that is not what the last request has printed."""
    content: bytes | None = None
    """Bytes that the producer finds beside the ledger, under the call's id."""


Steps = Generator[Plan, Seen, Shown]
"""Yields one `Plan` at least, gets the `Seen` of each, returns the `Shown`.

The same outcomes must lead to the same requests: the call may be taken up by another worker, which goes through the
steps from the first on, and the runner answers those that ran from memory. Before its first `Plan` it may raise
`InvalidArguments`. A request that misses the call's deadline or is cancelled ends the call; the steps never see it.
"""


@dataclass(frozen=True)
class Tool(Generic[A]):
    """One tool of the sandbox, and its steps."""

    definition: Definition[A]
    steps: Callable[[A], Steps]
    slow: bool = False
    """Its steps compute for long: they are gone through on a thread, beside the worker's event loop."""


def advance(steps: Steps, seen: Seen) -> Plan | Shown:
    """Let ``steps`` see an outcome; what they ask next, or what they say in the end."""
    try:
        return steps.send(seen)
    except StopIteration as end:
        shown: Shown = end.value
        return shown


def one_step(definition: Definition[A], plan: Callable[[A], Plan], show: Callable[[Seen], Shown]) -> Tool[A]:
    """A tool that takes a single request: ``plan`` makes it, ``show`` tells what came of it."""

    def steps(arguments: A) -> Steps:
        return show((yield plan(arguments)))

    return Tool(definition, steps)


def plainly(seen: Seen) -> Shown:
    """What was printed. A command that succeeded may chat on stderr; only a failure makes that the model's business."""
    stdout, stderr, exit_code = seen.stdout, seen.stderr, seen.outcome.exit_code
    failed = exit_code != 0 and stderr
    joint = "\n" if stdout and not stdout.endswith("\n") else ""
    output = f"{stdout}{joint}{stderr}" if failed else stdout
    return Shown(output, exit_code, seen.outcome.error, detail=dict(seen.outcome.detail))


class ToolRegistry:
    """What tools do, by their names and aliases."""

    def __init__(self, tools: Iterable[Tool[Any]]) -> None:
        self._by_name = {tool.definition.name: tool for tool in tools}
        self.catalogue = Catalogue(tool.definition for tool in self._by_name.values())

    def get(self, name: str, *, hidden: bool = False) -> Tool[Any]:
        """The tool ``name``; a hidden one only if asked for.

        Raises:
            UnknownTool: there is none; the message lists those there are.
        """
        return self._by_name[self.catalogue.get(name, hidden=hidden).name]
