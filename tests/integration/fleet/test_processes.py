"""Background processes through a real fleet, in the words of the predecessors (B7, B8)."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from toolfleet.config.contract import Status
from toolfleet.producer import Fleet, ToolResult, Trajectory

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def started(t: Trajectory, command: str, **options: Any) -> str:
    """Start something in the background; its session id."""
    result = await t.terminal(command, background=True, **options)
    assert result.ok, result
    return str(result.detail["session_id"])


def said(result: ToolResult) -> dict[str, Any]:
    """What a result says, which is its output as JSON as well."""
    assert json.loads(result.output) == result.detail
    return result.detail


async def test_b8_a_start_is_answered_at_once(fleet: Fleet) -> None:
    """H9, X7, P4, 46: it needs no file and no nohup; the whole command line belongs to it, in its directory."""
    async with fleet.trajectory() as t:
        arguments = {"command": "cd sub && pwd; sleep 100", "background": True, "workdir": "/tmp", "check_interval": 5}
        await t.terminal("mkdir /tmp/sub")
        result = await t.call("bash", {**arguments, "timeout": 1e9})
        assert (result.status, result.exit_code, result.error) == (Status.OK, 0, None)
        assert result.output.startswith("Background process started")
        assert re.fullmatch("proc_[0-9a-f]{12}", result.detail["session_id"])
        assert result.detail["pid"] > 1
        assert {"timeout_note", "check_interval_note"} <= set(result.detail)
        waited = said(await t.process("wait", result.detail["session_id"], timeout=1))
        assert waited["output"] == "/tmp/sub\n"


async def test_b8_a_start_that_fails_says_so(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        result = await t.terminal("true", background=True, workdir="/no/such")
        assert result.output.startswith("Failed to start background process: Cannot start in /no/such")
        assert str(result.error).startswith("Cannot start in /no/such")
        assert (result.status, result.exit_code) == (Status.OK, 126)


async def test_b7_list_and_poll_describe_a_process(fleet: Fleet) -> None:
    """49: the exit code is the process's own."""
    async with fleet.trajectory() as t, fleet.trajectory() as other:
        command = "echo hello; sleep 1000 # " + "x" * 300
        session_id = await started(t, command, workdir="/tmp")
        failing = await started(t, "exit 7")
        await t.process("wait", failing, timeout=20)
        first, second = said(await t.process("list"))["processes"]
        assert (first["session_id"], first["command"]) == (session_id, command[:200])
        assert (first["cwd"], first["status"], first["output_preview"]) == ("/tmp", "running", "hello\n")
        age = datetime.now(UTC) - datetime.fromisoformat(first["started_at"])
        assert timedelta(seconds=-1) < age < timedelta(seconds=60)
        assert first["uptime_seconds"] >= 0
        assert "exit_code" not in first
        assert (second["session_id"], second["status"], second["exit_code"]) == (failing, "exited", 7)
        polled = said(await t.process("poll", session_id))
        assert {"session_id", "command", "status", "pid", "uptime_seconds", "output_preview"} == set(polled)
        assert (polled["command"], polled["pid"]) == (command, first["pid"])
        assert said(await other.process("list"))["processes"] == []
        unknown = await other.process("poll", session_id)
        assert said(unknown) == {"status": "not_found", "error": f"No process with ID {session_id}"}
        assert (unknown.status, unknown.exit_code) == (Status.OK, 1)


async def test_b7_log_shows_lines_or_goes_on_by_bytes(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        session_id = await started(t, "seq 1000")
        await t.process("wait", session_id, timeout=20)
        last = await t.process("log", session_id)
        assert last.output.splitlines() == [str(n) for n in range(801, 1001)]
        assert (last.detail["total_lines"], last.detail["showing"]) == (1000, "200 lines")
        head = await t.process("log", session_id, offset=0, limit=3)
        assert (head.output, head.detail["showing"], head.detail["status"]) == ("1\n2\n3", "3 lines", "exited")
        part = await t.process("log", session_id, byte_offset=3881)
        assert (part.output, part.detail["next_byte_offset"]) == ("98\n999\n1000\n", 3893)
        long = await started(t, "seq 100000")
        await t.process("wait", long, timeout=20)
        whole = await t.process("log", long, offset=0, limit=10**6)
        assert (whole.detail["bytes_dropped"], whole.truncated) == (588_895 - 200_000, True)


async def test_b7_wait_ends_with_the_process_or_with_its_time(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        session_id = await started(t, "echo begun; read line; echo $line; exit 3")
        early = said(await t.process("wait", session_id, timeout=1))
        assert early == {
            "status": "timeout",
            "output": "begun\n",
            "timeout_note": "Waited 1s, process still running",
            "process_running": True,
        }
        clamped = await t.call("process", {"action": "wait", "session_id": session_id, "timeout": 300}, timeout=1)
        assert "Requested wait of 300s was clamped to configured limit of 1s" in clamped.detail["timeout_note"]
        assert said(await t.process("submit", session_id, data="word")) == {"status": "ok", "bytes_written": 5}
        assert said(await t.process("wait", session_id, timeout=20)) == {
            "status": "exited",
            "exit_code": 3,
            "output": "begun\nword\n",
        }
        late = await t.process("write", session_id, data="x")
        assert said(late) == {"status": "already_exited", "error": "Process has already finished", "exit_code": 3}
        assert late.error == "Process has already finished"


async def test_b7_kill_ends_the_tree(fleet: Fleet) -> None:
    """N8: what is said to be killed is dead."""
    async with fleet.trajectory() as t:
        session_id = await started(t, "trap '' TERM; setsid sleep 1234.5 & sleep 1234.5")
        await t.terminal("until [ $(pgrep -fxc 'sleep 1234.5') = 2 ]; do sleep 0.01; done")
        assert said(await t.process("kill", session_id)) == {
            "status": "killed",
            "session_id": session_id,
            "exit_code": 137,
        }
        assert (await t.terminal("pgrep -fx 'sleep 1234.5'")).exit_code == 1
        assert said(await t.process("kill", session_id))["status"] == "already_exited"


async def test_b7_an_id_may_be_short_or_a_number(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        session_id = await started(t, "sleep 100")
        assert said(await t.process("poll", session_id.removeprefix("proc_")[:4]))["session_id"] == session_id
        result = await t.call("process", {"action": "poll", "session_id": 1234567890})
        assert result.error == "No process with ID 1234567890"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"action": "dance"}, "Unknown process action: dance"),
        ({"action": "poll"}, "session_id is required for poll"),
        ({"action": "log", "session_id": "x", "limit": 0}, "limit: Input should be greater than or equal to 1"),
    ],
)
async def test_b7_what_makes_no_sense_is_rejected(fleet: Fleet, arguments: dict[str, Any], says: str) -> None:
    async with fleet.trajectory() as t:
        result = await t.call("process", arguments)
    assert (result.status, result.executed) == (Status.REJECTED, "no")
    assert says in str(result.error)


async def test_a_terminal_is_there_where_it_is_asked_for(fleet: Fleet) -> None:
    """50: input and terminals wherever the sandbox is."""
    async with fleet.trajectory() as t:
        assert (await t.terminal("test -t 1 && tty", pty=True)).output.startswith("/dev/pts/")
        assert (await t.terminal("test -t 1")).exit_code == 1
        session_id = await started(t, "exec python3 -q", pty=True)
        await t.process("submit", session_id, data="print(6 * 7); exit(5)")
        ended = said(await t.process("wait", session_id, timeout=20))
        assert (ended["status"], ended["exit_code"]) == ("exited", 5)
        assert "42" in ended["output"]


async def test_n11_an_exit_code_that_is_easily_misread_is_explained(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        assert "no error" in (await t.terminal("grep nobody-is-called-so /etc/passwd")).detail["exit_code_meaning"]
        assert "exit_code_meaning" not in (await t.terminal("exit 1")).detail
