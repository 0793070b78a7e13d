"""B7, B8, H9: background processes, as clients of the predecessors see them."""

import asyncio
import json
import re
from typing import Any

import pytest

from toolfleet.config.tools import catalogue
from toolfleet.producer.adapters.handler import tool_handler
from toolfleet.producer.adapters.rollouts import Rollouts
from toolfleet.producer.adapters.shapes.hecate import hecate

pytestmark = pytest.mark.skipif("process" not in {tool.name for tool in catalogue()}, reason="needs the tool process")


async def test_a_process_from_its_start_to_its_end(rollouts: Rollouts) -> None:
    handler = tool_handler(rollouts)

    async def ask(tool: str, **arguments: Any) -> dict[str, Any]:
        said = json.loads(await handler(tool, arguments, "a"))
        assert isinstance(said, dict)
        return said

    command = "echo ready; read line; echo got $line; exit 3"
    started = await ask("terminal", command=command, background=True)
    assert re.fullmatch("proc_[0-9a-f]{12}", started["session_id"])
    assert isinstance(started["pid"], int)
    rest = {key: value for key, value in started.items() if key not in ("session_id", "pid")}
    assert rest == {"output": "Background process started", "exit_code": 0, "error": None}
    ident = started["session_id"]

    while not (polled := await ask("process", action="poll", session_id=ident))["output_preview"]:
        await asyncio.sleep(0.01)
    assert (polled["session_id"], polled["command"], polled["status"]) == (ident, command, "running")
    assert polled["output_preview"] == "ready\n"
    (listed,) = (await ask("process", action="list"))["processes"]
    assert (listed["session_id"], listed["status"]) == (ident, "running")
    assert {"command", "cwd", "pid", "started_at", "uptime_seconds", "output_preview"} <= listed.keys()

    waited = await ask("process", action="wait", session_id=ident, timeout=1)
    assert waited["status"] == "timeout"
    assert "process still running" in waited["timeout_note"]
    written = await ask("process", action="submit", session_id=ident, data="a line")
    assert written == {"status": "ok", "bytes_written": 7}
    ended = await ask("process", action="wait", session_id=ident)
    assert (ended["status"], ended["exit_code"], ended["output"]) == ("exited", 3, "ready\ngot a line\n")
    log = await ask("process", action="log", session_id=ident, limit=1)
    assert (log["output"], log["total_lines"], log["showing"]) == ("got a line", 2, "1 lines")
    assert (await ask("process", action="kill", session_id=ident))["status"] == "already_exited"

    served = await ask("terminal", command="sleep 300", background=True)
    killed = await ask("process", action="kill", session_id=served["session_id"])
    assert (killed["status"], killed["session_id"]) == ("killed", served["session_id"])


async def test_what_cannot_be_done_is_told(rollouts: Rollouts) -> None:
    handler = tool_handler(rollouts)

    async def ask(**arguments: Any) -> dict[str, Any]:
        said = json.loads(await handler("process", arguments, "a"))
        assert isinstance(said, dict)
        return said

    missing = await ask(action="poll", session_id="proc_000000000000")
    assert missing == {"status": "not_found", "error": "No process with ID proc_000000000000"}
    assert (await ask(action="dance"))["error"].startswith("Unknown process action: dance")
    assert (await ask(action="kill"))["error"] == "session_id is required for kill"
    assert await ask(action="list") == {"processes": []}


async def test_the_terminal_of_a_vm_starts_one_too(rollouts: Rollouts) -> None:
    """H9, defect 46: a whole command line, with an output and an end of its own."""
    arguments = {"command": "cd /tmp && echo one; echo two", "background": True}
    said = hecate(await rollouts.call("a", "terminal", arguments), arguments)
    assert said.pop("session_id").startswith("proc_")
    assert isinstance(said.pop("pid"), int)
    assert said == {"output": "Background task started successfully", "exit_code": 0, "error": None}
