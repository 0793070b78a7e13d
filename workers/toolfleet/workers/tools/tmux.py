"""``tmux``: one terminal of a trajectory. Its shell is a background process on a terminal of the runner's."""

from collections.abc import Generator, Mapping
from typing import Any

from toolfleet.config.errors import InvalidArguments
from toolfleet.config.tools.tmux import TMUX, TmuxArguments
from toolfleet.workers.tools.base import Plan, Seen, Shown, Steps, Tool
from toolfleet.workers.tools.keys import encode
from toolfleet.workers.tools.screen import cast_events, cast_header, rows

#: How the terminal is told from the other background processes of its trajectory.
COMMAND = "exec bash -i # terminal of the tool tmux"
_NONE = "There is no terminal: start it first with action start"
#: Seconds for which keys are given time to show on the screen.
_MOMENT = 0.3

Found = Generator[Plan, Seen, Mapping[str, Any] | None]


def _tmux(arguments: TmuxArguments) -> Steps:
    if arguments.action == "send_keys" and not arguments.keys:
        raise InvalidArguments("keys is required for send_keys")
    found = yield from _find()
    if arguments.action == "start":
        return (yield from _start(arguments, found))
    if found is None:
        return Shown(_NONE, 1, _NONE)
    if arguments.action == "stop":
        return (yield from _stop(found))
    if arguments.action == "send_keys":
        yield from _send(arguments, found)
    if arguments.action == "stream":
        return (yield from _stream(arguments, found))
    return (yield from _capture(found, entire=arguments.capture_entire))


def _find() -> Found:
    """The terminal, if there is one that lives."""
    seen = yield Plan("process", {"action": "list"})
    for known in seen.outcome.detail.get("processes", ()):
        if known["idle"] and known["command"] == COMMAND and known["status"] == "running":
            return dict(known)
    return None


def _start(arguments: TmuxArguments, found: Mapping[str, Any] | None) -> Steps:
    if found is not None and not arguments.reset:
        return (yield from _capture(found))
    if found is not None:
        yield Plan("process", {"action": "kill", "process": found["process"]})
    size = {"rows": arguments.pane_height, "columns": arguments.pane_width}
    seen = yield Plan("spawn", {"command": COMMAND, "pty": True, "idle": True, **size})
    if seen.outcome.error:
        return Shown(seen.outcome.error, seen.outcome.exit_code or 1, seen.outcome.error)
    started = seen.outcome.detail
    yield Plan("process", {"action": "settle", "process": started["process"], "seconds": 5})
    return (yield from _capture(started))


def _stop(found: Mapping[str, Any]) -> Steps:
    seen = yield Plan("process", {"action": "kill", "process": found["process"]})
    survivors = seen.outcome.detail.get("survivors")
    if survivors:
        error = f"Not stopped: {len(survivors)} of its processes withstood"
        return Shown(error, 1, error, detail={"survivors": survivors})
    return Shown("stopped", 0)


def _send(arguments: TmuxArguments, found: Mapping[str, Any]) -> Generator[Plan, Seen, None]:
    keys = [arguments.keys] if isinstance(arguments.keys, str) else arguments.keys or []
    data = "".join(encode(key) for key in keys)
    yield Plan("process", {"action": "write", "process": found["process"], "data": data})
    if arguments.min_wait_s:
        yield Plan("process", {"action": "wait", "process": found["process"], "seconds": arguments.min_wait_s})
    # Without ``block`` as well: a moment for the screen to show what was typed.
    left = max(0.0, arguments.max_wait_s - arguments.min_wait_s) if arguments.block else _MOMENT
    yield Plan("process", {"action": "settle", "process": found["process"], "seconds": left})


def _capture(found: Mapping[str, Any], *, entire: bool = False) -> Steps:
    seen = yield Plan("process", {"action": "log", "process": found["process"]})
    known = seen.outcome.detail
    if seen.outcome.error:
        return Shown(seen.outcome.error, 1, seen.outcome.error)
    shown = rows(seen.outcome.stdout, known["columns"], known["rows"], entire=entire)
    return Shown("\n".join(shown), 0, detail=_about(known))


def _stream(arguments: TmuxArguments, found: Mapping[str, Any]) -> Steps:
    where = {"resume": True, "offset": 0} if arguments.reset else {"resume": True}
    request = {"action": "log", "process": found["process"], "limit": arguments.max_bytes, **where}
    seen = yield Plan("process", request)
    known = seen.outcome.detail
    if seen.outcome.error:
        return Shown(seen.outcome.error, 1, seen.outcome.error)
    lines = cast_events(seen.outcome.stdout, known["offset"], known["moments"])
    if known["offset"] == 0:
        lines.insert(0, cast_header(known["columns"], known["rows"]))
    return Shown("".join(f"{line}\n" for line in lines), 0, detail={**_about(known), "offset": known["next_offset"]})


def _about(known: Mapping[str, Any]) -> dict[str, Any]:
    about = {name: known[name] for name in ("status", "rows", "columns")}
    return about | ({"bytes_dropped": known["log_start"]} if known["log_start"] else {})


TMUX_TOOL = Tool(TMUX, _tmux, slow=True)
