"""``process``: background processes, in the words that models know from the predecessors.

What a result's ``detail`` holds is also its output, as JSON; only a log is shown as it is.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from toolfleet.config.errors import InvalidArguments
from toolfleet.config.tools.processes import ACTIONS, PROCESS, ProcessArguments
from toolfleet.workers.tools.base import Plan, Seen, Shown, Steps, Tool

#: Characters that are shown of a command in a list, and of the latest output by poll, by wait, and at the end.
COMMAND, POLLED, WAITED, ENDED = 200, 1000, 1000, 2000
#: Seconds that are waited when only the call's own time limit ends a wait.
_FOR_EVER = 1_000_000
#: Bytes of a log that one look by offset shows, so that nothing is cut out of its middle.
_PART = 48_000
_BYTES_A_CHARACTER = 4


def _process(arguments: ProcessArguments) -> Steps:
    action = arguments.action
    if action not in ACTIONS:
        raise InvalidArguments(f"Unknown process action: {action[:COMMAND]}. Use: {', '.join(ACTIONS)}")
    if action == "list":
        return _listed((yield Plan("process", {"action": "list"})))
    if not arguments.session_id:
        raise InvalidArguments(f"session_id is required for {action}")
    request, show = _ACTIONS[action]
    seen = yield Plan("process", {"process": arguments.session_id, **request(arguments)})
    outcome = seen.outcome
    if outcome.detail.get("status") == "not_found":
        error = outcome.error or ""
        return _said({"status": "not_found", "error": error}, 1, error)
    if outcome.error and "process" not in outcome.detail:
        return _said({"status": "error", "error": outcome.error}, outcome.exit_code or 1, outcome.error)
    return show(arguments, seen)


def _said(detail: dict[str, Any], exit_code: int = 0, error: str | None = None) -> Shown:
    return Shown(json.dumps(detail, ensure_ascii=False), exit_code, error, detail=detail)


def _listed(seen: Seen) -> Shown:
    now = datetime.now(UTC)
    processes = []
    for known in seen.outcome.detail["processes"]:
        started = now - timedelta(seconds=known["age"])
        processes.append(
            {
                "session_id": known["process"],
                "command": known["command"][:COMMAND],
                "cwd": known["cwd"],
                "pid": known["pid"],
                "started_at": started.isoformat(timespec="seconds"),
                "uptime_seconds": int(known["uptime"]),
                "status": known["status"],
                "output_preview": known["preview"],
                **_exit(known),
            }
        )
    return _said({"processes": processes})


def _exit(known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: known[name] for name in ("exit_code", "error") if name in known}


# -- what is asked, and what is said of the answer ------------------------------------------------------------------


def _ask_poll(_: ProcessArguments) -> dict[str, Any]:
    return {"action": "poll", "tail": POLLED * _BYTES_A_CHARACTER}


def _show_poll(_: ProcessArguments, seen: Seen) -> Shown:
    known = seen.outcome.detail
    return _said(
        {
            "session_id": known["process"],
            "command": known["command"],
            "status": known["status"],
            "pid": known["pid"],
            "uptime_seconds": int(known["uptime"]),
            "output_preview": seen.stdout[-POLLED:],
            **_exit(known),
        }
    )


def _ask_log(arguments: ProcessArguments) -> dict[str, Any]:
    if arguments.byte_offset is None:
        return {"action": "log"}
    return {"action": "log", "offset": arguments.byte_offset, "limit": _PART}


def _show_log(arguments: ProcessArguments, seen: Seen) -> Shown:
    outcome = seen.outcome
    known = outcome.detail
    # The log itself, not the text of the result's stream: that one is cut in the middle.
    text = outcome.stdout.decode("utf-8", "replace")
    detail: dict[str, Any] = {"session_id": known["process"], "status": known["status"]}
    if arguments.byte_offset is None:
        lines = text.splitlines()
        first = max(0, len(lines) - arguments.limit) if arguments.offset is None else arguments.offset
        shown = lines[first : first + arguments.limit]
        text = "\n".join(shown)
        detail |= {"total_lines": len(lines), "showing": f"{len(shown)} lines"}
    detail |= {"byte_offset": known["offset"], "next_byte_offset": known["next_offset"]}
    if known["log_start"]:
        detail["bytes_dropped"] = known["log_start"]
    return Shown(text, 0, detail={**detail, **_exit(known)})


def _ask_wait(arguments: ProcessArguments) -> dict[str, Any]:
    seconds = _FOR_EVER if arguments.timeout is None else max(1.0, arguments.timeout)
    return {"action": "wait", "seconds": min(seconds, _FOR_EVER), "tail": ENDED * _BYTES_A_CHARACTER}


def _show_wait(arguments: ProcessArguments, seen: Seen) -> Shown:
    outcome = seen.outcome
    known = outcome.detail
    if known["status"] == "exited":
        return _said({"status": "exited", **_exit(known), "output": seen.stdout[-ENDED:]})
    waited = round(outcome.ran)
    note = f"Waited {waited}s, process still running"
    if arguments.timeout is not None and outcome.ran < arguments.timeout - 1:
        note = f"Requested wait of {arguments.timeout:g}s was clamped to configured limit of {waited}s"
    return _said({"status": "timeout", "output": seen.stdout[-WAITED:], "timeout_note": note, "process_running": True})


def _ask_kill(_: ProcessArguments) -> dict[str, Any]:
    return {"action": "kill"}


def _show_kill(_: ProcessArguments, seen: Seen) -> Shown:
    known = seen.outcome.detail
    survivors = known["survivors"]
    if survivors:
        error = f"Not killed: {len(survivors)} of its processes withstood"
        return _said({"status": "error", "error": error, "survivors": survivors}, 1, error)
    status = "already_exited" if known["already_exited"] else "killed"
    return _said({"status": status, "session_id": known["process"], **_exit(known)})


def _ask_write(arguments: ProcessArguments) -> dict[str, Any]:
    newline = "\n" if arguments.action == "submit" else ""
    return {"action": "write", "data": arguments.data + newline, "eof": arguments.eof}


def _show_write(arguments: ProcessArguments, seen: Seen) -> Shown:
    known = seen.outcome.detail
    if known["status"] == "exited" and not known["written"]:
        error = "Process has already finished"
        return _said({"status": "already_exited", "error": error, **_exit(known)}, 1, error)
    if known.get("complete"):
        return _said({"status": "ok", "bytes_written": known["written"]})
    error = "Process stdin closed" if "complete" not in known else "Process does not read its input"
    return _said({"status": "error", "error": error, "bytes_written": known["written"]}, 1, error)


_ACTIONS: dict[str, tuple[Callable[[ProcessArguments], dict[str, Any]], Callable[[ProcessArguments, Seen], Shown]]] = {
    "poll": (_ask_poll, _show_poll),
    "log": (_ask_log, _show_log),
    "wait": (_ask_wait, _show_wait),
    "kill": (_ask_kill, _show_kill),
    "write": (_ask_write, _show_write),
    "submit": (_ask_write, _show_write),
}

PROCESS_TOOL = Tool(PROCESS, _process)
