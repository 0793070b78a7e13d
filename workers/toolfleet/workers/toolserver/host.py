"""What a ToolServer runs, and how an answer is made of what a tool gave."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolfleet.config.contract import clamp_timeout
from toolfleet.config.errors import InvalidCall
from toolfleet.config.tools import Arguments, Catalogue, Context, Definition, UserTool, parse
from toolfleet.workers.tools.user import reason, speak
from toolfleet.workers.toolserver.wire import ExecuteReply, ExecuteRequest
from toolfleet.workers.turns import NoTurn, Overran, Turns

log = logging.getLogger(__name__)

#: Seconds that a call may take when its request names no time, and at most.
DEFAULT_TIMEOUT, LONGEST_TIMEOUT = 120.0, 600.0
#: Calls that may wait for each one that runs.
WAITING_PER_RUNNING = 16
#: Characters of a tool's output and error that are sent back.
LONGEST_OUTPUT = 1_000_000


@dataclass(frozen=True)
class Hosted:
    """A tool of this server."""

    definition: Definition[Any]
    perform: Callable[[Any, Context], Any]
    """Does the work with checked arguments; gives text, or what JSON can say. May raise `NoTurn`."""
    blocking: bool = False
    """It needs a thread; else it is awaited."""
    release: Callable[[str], Awaitable[None]] | None = None
    """Gives up what it keeps for a trajectory."""

    @classmethod
    def of(cls, made: UserTool[..., Any]) -> "Hosted":
        """The tool of a user's function."""

        def perform(arguments: Arguments, context: Context) -> Any:
            return made.function(**made.keywords(arguments, context))

        return cls(made.definition, perform, blocking=not made.is_async)


class Host:
    """The tools of one server, and the limits that they share."""

    def __init__(self, tools: Iterable[Hosted], concurrency: int, absent: Mapping[str, str] | None = None) -> None:
        """``absent`` says of tools that one may expect why they are not here."""
        self._absent = absent or {}
        self._tools = {tool.definition.name: tool for tool in tools}
        self._turns = Turns(concurrency, concurrency * WAITING_PER_RUNNING)
        self.catalogue = Catalogue([tool.definition for tool in self._tools.values()])

    async def execute(self, request: ExecuteRequest) -> ExecuteReply:
        """Run one call; a tool's own failure is a reply, too.

        Raises:
            NoTurn: it was not run, for there are too many others.
        """
        seconds = clamp_timeout(request.timeout_s or DEFAULT_TIMEOUT, LONGEST_TIMEOUT)
        if why := self._absent.get(request.tool.name):
            return _reply(request, error=why)
        try:
            hosted = self._tools[self.catalogue.get(request.tool.name).name]
            arguments = parse(hosted.definition, request.tool.arguments)
        except InvalidCall as wrong:
            return _reply(request, error=str(wrong))

        def perform(left: float) -> Any:
            call_id, slot, address = request.tool.uniq_id, request.slot_id, request.container_addr
            return hosted.perform(arguments, Context(request.trajectory_id, call_id, left, slot, address))

        try:
            output, error = speak(await self._turns.run(perform, seconds, blocking=hosted.blocking))
        except NoTurn:
            raise
        except Overran as late:
            return _reply(request, error=str(late), timed_out=True)
        except Exception as failure:  # noqa: BLE001 - a tool may raise anything
            # Only its kind: what a tool says of its failure may hold what it was told, and its keys.
            log.warning("the tool %s failed: %s", hosted.definition.name, type(failure).__name__)
            return _reply(request, error=reason(failure))
        return _reply(request, output, error)

    async def release(self, trajectory_id: str) -> None:
        """Give up what tools keep for a trajectory."""
        for tool in self._tools.values():
            if tool.release is not None:
                await tool.release(trajectory_id)


def _reply(request: ExecuteRequest, output: str = "", error: str = "", **metadata: Any) -> ExecuteReply:
    return ExecuteReply(
        success=not error,
        output=_clean(output),
        error=_clean(error),
        metadata=metadata,
        uniq_id=request.tool.uniq_id,
    )


def _clean(text: str) -> str:
    """``text`` as it can travel: no halves of surrogate pairs, and not without end."""
    return text[:LONGEST_OUTPUT].encode("utf-8", "replace").decode("utf-8")
