"""What a tool does: requests to the runner, one after another, or work outside the sandbox; and how it is shown."""

from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from toolfleet.backends.base import Operation, Outcome
from toolfleet.config.errors import NoToolServer, UnknownTool
from toolfleet.config.tools.base import Arguments, Catalogue, Definition
from toolfleet.config.tools.user import Context

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


class NotRun(Exception):
    """Infrastructure kept a tool outside the sandbox from being run; provably nothing happened.

    ``again`` tells whether another try may go better.
    """

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class Unanswered(Exception):
    """A tool outside the sandbox was asked to run, and what became of it cannot be learnt."""


class Stopped(Exception):
    """A tool outside the sandbox was stopped at the deadline of its call."""


@dataclass(frozen=True)
class OutsideTool(Generic[A]):
    """One tool that needs no sandbox: it runs in the worker's process, or at the ToolServer."""

    definition: Definition[A]
    perform: Callable[[A, Context], Awaitable[Shown]]
    """Does the work, within ``context.timeout`` seconds. What the tool itself has to say of a failure is `Shown`.

    Raises `NotRun`, `Unanswered` or `Stopped`; anything else is an error of the worker.
    """


AnyTool = Tool[Any] | OutsideTool[Any]


class ToolRegistry:
    """What tools do, by their names and aliases."""

    def __init__(self, tools: Iterable[AnyTool], unserved: Iterable[str] = ()) -> None:
        """``unserved`` are names of external tools for which there is no ToolServer."""
        self._by_name = {tool.definition.name: tool for tool in tools}
        self._unserved = frozenset(unserved)
        self.catalogue = Catalogue(tool.definition for tool in self._by_name.values())

    def find(self, name: str, *, hidden: bool = False) -> AnyTool:
        """The tool ``name``; a hidden one only if asked for.

        Raises:
            UnknownTool: there is none; the message lists those there are.
            NoToolServer: it is external, and the fleet has no ToolServer.
        """
        if name in self._unserved:
            raise NoToolServer(f"external tool not available (ToolServer not configured): {name}")
        return self._by_name[self.catalogue.get(name, hidden=hidden).name]

    def get(self, name: str, *, hidden: bool = False) -> Tool[Any]:
        """The tool ``name``, which needs a sandbox; a hidden one only if asked for.

        Raises:
            UnknownTool: there is none of that name in a sandbox.
        """
        found = self.find(name, hidden=hidden)
        if isinstance(found, OutsideTool):
            raise UnknownTool(f"the tool {name!r} runs outside the sandbox")
        return found
