"""F11: what runs in the background outlives the worker that started it, and is looked after by the next one."""

import asyncio
import signal
from pathlib import Path

from fleet_processes import until_running
from shared_machine import COLD, Start, other, sandboxes, two_workers

from toolfleet.config.contract import Status
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet


async def test_background_work_goes_on_under_the_next_worker(
    settings: Settings, host: Start, state: FleetState, run: Path
) -> None:
    """49, D6: its log, its input, its end and its kill; nothing of it stays behind when the trajectory is closed."""
    async with two_workers(host, state, **COLD) as workers, Fleet.connect(settings) as fleet:
        async with fleet.trajectory("t1") as t:
            first = await t.terminal("echo begun; read line; echo $line; exit 7", background=True)
            waited, doomed = str(first.detail["session_id"]), (await t.terminal("sleep 5301", background=True))
            await t.call("terminal_stateful", {"command": "A=kept"})
            running = asyncio.create_task(
                t.call("process", {"action": "wait", "session_id": waited}, call_id="t1.wait", timeout=60)
            )
            while await state.redis.hget(state.key("call", "t1.wait"), "state") != b"started":
                await asyncio.sleep(0.01)
            workers[first.worker_id].send_signal(signal.SIGKILL)
            written = await t.call("process", {"action": "submit", "session_id": waited, "data": "on"}, parallel=True)
            assert (written.detail["status"], written.worker_id) == ("ok", other(first.worker_id))
            ended = await running
            assert (ended.status, ended.worker_id) == (Status.OK, other(first.worker_id))
            assert (ended.detail["status"], ended.detail["exit_code"]) == ("exited", 7)
            assert (await t.process("log", waited)).output == "begun\non"
            assert (await t.process("poll", str(doomed.detail["session_id"]))).detail["status"] == "running"
            assert (await t.process("kill", str(doomed.detail["session_id"]))).detail["status"] == "killed"
            assert (await t.terminal("pgrep -fx 'sleep 5301'")).exit_code == 1
            assert (await t.call("terminal_stateful", {"command": "echo $A"})).output == "kept\n"
            await t.terminal("sleep 5302", background=True)
        while await sandboxes(run):
            await asyncio.sleep(0.05)


async def test_a_start_that_was_under_way_starts_once(settings: Settings, host: Start, state: FleetState) -> None:
    """F12: a command of a persistent shell that its worker did not live to see is neither lost nor run again."""
    async with two_workers(host, state) as workers, Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        dies = (await t.call("terminal_stateful", {"command": "n=0"})).worker_id
        arguments = {"command": "n=$((n + 1)); until [ -e /tmp/go ]; do sleep 0.01; done; echo $n"}
        running = asyncio.create_task(t.call("terminal_stateful", arguments, call_id="t1.shell", timeout=60))
        while await state.redis.hget(state.key("call", "t1.shell"), "state") != b"started":
            await asyncio.sleep(0.01)
        workers[dies].send_signal(signal.SIGKILL)
        await t.call("terminal", {"command": "touch /tmp/go"}, parallel=True)
        result = await running
        assert (result.status, result.output, result.worker_id) == (Status.OK, "1\n", other(dies))


async def test_a_restarted_worker_finds_what_runs(settings: Settings, host: Start, state: FleetState) -> None:
    async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        with host("w1", TOOLFLEET_LEASE_TTL="60") as first:
            session_id = str((await t.terminal("sleep 5303", background=True)).detail["session_id"])
            running = await until_running(fleet, t, "sleep 1")
            first.send_signal(signal.SIGKILL)
            first.wait()
        with host("w1"):
            assert (await running).status is Status.OK
            assert (await t.process("poll", session_id)).detail["status"] == "running"
