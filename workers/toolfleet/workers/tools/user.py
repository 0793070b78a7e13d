"""What users' own tools do: a function's source in the sandbox, requests to the runner, or work in this process."""

import json
import logging
from typing import Any

from pydantic_core import to_jsonable_python

from toolfleet.config.errors import InvalidArguments, SettingsError
from toolfleet.config.tools.base import Arguments
from toolfleet.config.tools.user import Context, ToolFailed, UserTool, source
from toolfleet.workers.tools.base import (
    AnyTool,
    NotRun,
    OutsideTool,
    Plan,
    Seen,
    Shown,
    Steps,
    Stopped,
    Tool,
    one_step,
    plainly,
)
from toolfleet.workers.turns import NoTurn, Overran, Turns

log = logging.getLogger(__name__)

#: Bytes of a variable that every kernel takes; longer arguments are told in pieces.
PIECE = 100_000
#: Bytes that the arguments of a tool in a sandbox may have as JSON. Quoted once more they must fit into a frame.
LARGEST_ARGUMENTS = 400_000

_COMMAND = """\
command -v python3 >/dev/null || { echo 'this tool needs python3 in the sandbox, and there is none' >&2; exit 127; }
exec python3 -c "$_TOOL_SOURCE"
"""

#: What it returns is told on the real stdout; whatever it or its children print goes to stderr.
_PROGRAM = """\
import json, os
{source}
del os.environ["_TOOL_SOURCE"]
_text = "".join(os.environ.pop(f"_TOOL_ARGUMENTS_{{_n}}") for _n in range({pieces}))
_answer = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
os.dup2(2, 1)
_value = {name}(**json.loads(_text))
_answer.write(_value if isinstance(_value, str) else json.dumps(_value, ensure_ascii=False, default=str))
_answer.close()
"""


def user_tool(made: UserTool[..., Any], turns: Turns) -> AnyTool:
    """What a user's tool does in the sandbox or in this process, where ``turns`` are shared by all such tools."""
    if made.definition.where == "worker":
        return _in_process(made, turns)
    return _of_requests(made) if made.is_generator else _of_source(made)


def speak(value: object) -> tuple[str, str]:
    """What a tool's function returned, as output and error; an object with a true ``error`` tells of a failure."""
    said: object = value
    if isinstance(value, str):
        output = value
        if value.startswith("{"):
            try:
                said = json.loads(value)
            except (ValueError, RecursionError):
                said = None
    else:
        output = json.dumps(value, ensure_ascii=False, default=str)
    error = said.get("error") if isinstance(said, dict) else None
    if not error:
        return output, ""
    return output, error if isinstance(error, str) else json.dumps(error, ensure_ascii=False, default=str)


def reason(failure: Exception) -> str:
    """What a model reads of an exception that a tool raised."""
    return str(failure) if isinstance(failure, ToolFailed) else f"{type(failure).__name__}: {failure}"


def _in_process(made: UserTool[..., Any], turns: Turns) -> OutsideTool[Any]:
    async def perform(arguments: Arguments, context: Context) -> Shown:
        def function(left: float) -> Any:
            mine = Context(context.trajectory_id, context.call_id, left)
            return made.function(**made.keywords(arguments, mine))

        try:
            output, error = speak(await turns.run(function, context.timeout, blocking=not made.is_async))
        except NoTurn as full:
            raise NotRun(str(full)) from None
        except Overran as late:
            raise Stopped(str(late)) from None
        except Exception as failure:  # noqa: BLE001 - a user's function may raise anything
            # Only its kind: what a tool says of its failure may hold what it was told, and its keys.
            log.warning("the tool %s failed: %s", made.definition.name, type(failure).__name__)
            output = error = reason(failure)
        return Shown(_clean(output), int(bool(error)), _clean(error) or None)

    return OutsideTool(made.definition, perform)


def _of_requests(made: UserTool[..., Any]) -> Tool[Any]:
    def steps(arguments: Arguments) -> Steps:
        requests: Steps = made.function(**made.keywords(arguments))
        return requests

    return Tool(made.definition, steps)


def _of_source(made: UserTool[..., Any]) -> Tool[Any]:
    text = source(made)
    if len(text.encode()) > PIECE - len(_PROGRAM):
        raise SettingsError(f"@tool {made.definition.name}: its source has more than {PIECE} bytes: split it")

    def plan(arguments: Arguments) -> Plan:
        given = json.dumps(to_jsonable_python(made.keywords(arguments)))
        if len(given) > LARGEST_ARGUMENTS:
            raise InvalidArguments(f"arguments of {made.definition.name}: at most {LARGEST_ARGUMENTS} bytes of JSON")
        pieces = [given[start : start + PIECE] for start in range(0, len(given), PIECE)]
        program = _PROGRAM.format(source=text, name=made.function.__name__, pieces=len(pieces))
        env = {"_TOOL_SOURCE": program} | {f"_TOOL_ARGUMENTS_{n}": piece for n, piece in enumerate(pieces)}
        return Plan("exec", {"command": _COMMAND, "env": env})

    return one_step(made.definition, plan, _told)


def _told(seen: Seen) -> Shown:
    if seen.outcome.exit_code:
        return plainly(seen)
    output, error = speak(seen.stdout)
    return Shown(output, int(bool(error)), error or None)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
