"""``terminal`` and ``terminal_stateful``: shell commands in the trajectory's sandbox."""

from typing import Any

from toolfleet.config.tools.terminal import TERMINAL, TERMINAL_STATEFUL, StatefulArguments, TerminalArguments
from toolfleet.workers.tools.base import Plan, Seen, Shown, Steps, Tool, plainly
from toolfleet.workers.tools.exit_codes import meaning

_CHECK_NOTE = "Nothing is checked by itself here: use process with action poll or wait"
_TIMEOUT_NOTE = "A background process has no time limit: kill it with the tool process when it is no longer needed"

#: What a model has to know of a persistent shell, by how a command found it and how it left it.
_BEGAN = {"anew": "the shell had died, and this command ran in a new one: variables and directory are gone"}
_STATES = {
    "restored": "the command ended the shell; it goes on with the state from before this command",
    "lost": "the command ended the shell; the next one begins in a new shell",
}


def _terminal(arguments: TerminalArguments) -> Steps:
    args: dict[str, Any] = {"command": arguments.command}
    if arguments.workdir is not None:
        args["cwd"] = arguments.workdir
    if arguments.pty:
        args["pty"] = True
    if arguments.background:
        return _started(arguments, (yield Plan("spawn", args)))
    return _with_meaning(arguments.command, (yield Plan("exec", args)))


def _started(arguments: TerminalArguments, seen: Seen) -> Shown:
    outcome = seen.outcome
    if outcome.error:
        return Shown(f"Failed to start background process: {outcome.error}", outcome.exit_code or 1, outcome.error)
    detail: dict[str, Any] = {"session_id": outcome.detail["process"], "pid": outcome.detail["pid"]}
    if arguments.timeout is not None:
        detail["timeout_note"] = _TIMEOUT_NOTE
    if arguments.check_interval is not None:
        detail["check_interval_note"] = _CHECK_NOTE
    return Shown(f"Background process started\nsession_id: {detail['session_id']}", 0, detail=detail)


def _with_meaning(command: str, seen: Seen) -> Shown:
    shown = plainly(seen)
    note = None if shown.error else meaning(command, shown.exit_code)
    detail = {**shown.detail, "exit_code_meaning": note} if note else shown.detail
    return Shown(shown.output, shown.exit_code, shown.error, shown.truncated, detail)


def _stateful(arguments: StatefulArguments) -> Steps:
    shown = _with_meaning(arguments.command, (yield Plan("shell", {"command": arguments.command})))
    notes = [_BEGAN.get(shown.detail.get("began", "")), _STATES.get(shown.detail.get("state", ""))]
    said = "\n".join(f"[{note}]" for note in notes if note)
    joint = "\n" if said and shown.output and not shown.output.endswith("\n") else ""
    return Shown(f"{shown.output}{joint}{said}", shown.exit_code, shown.error, shown.truncated, shown.detail)


TERMINAL_TOOL = Tool(TERMINAL, _terminal)
TERMINAL_STATEFUL_TOOL = Tool(TERMINAL_STATEFUL, _stateful)
