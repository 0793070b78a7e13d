"""What Flower shows: one row for each tool call, and a button that cancels it."""

import asyncio
import importlib.util
import json
import urllib.request
from typing import Any

from fleet_processes import free_port, process, worker
from services import missing

from toolfleet.config.contract import Status
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet


async def ask(port: int, path: str, method: str = "GET") -> Any:
    """Flower's API; None while it does not answer."""

    def fetch() -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, data=None)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    try:
        return await asyncio.to_thread(fetch)
    except OSError:
        return None


async def test_flower_shows_a_row_for_every_call_and_can_revoke_one(settings: Settings, redis_url: str) -> None:
    if importlib.util.find_spec("flower") is None:
        missing("flower")
    port = free_port()
    env = {"TOOLFLEET_REDIS_URL": redis_url, "TOOLFLEET_FLEET": "test", "FLOWER_UNAUTHENTICATED_API": "true"}
    with (
        worker("w1", redis_url),
        process("flower", f"--port={port}", "--address=127.0.0.1", "--logging=error", **env),
    ):
        async with Fleet.connect(settings) as fleet, fleet.trajectory("rollout-7") as t:
            # Flower switches events on by a broadcast of its own, every few seconds.
            while not await ask(port, "/api/tasks"):
                await t.terminal("echo warming up")
            tail = "x" * 500
            calls = [
                await t.terminal(f"echo hi # {tail}"),
                await t.terminal("exit 3"),
                await t.terminal("sleep 9", timeout=1),
                await t.call("terminla", {}),
            ]
            running = asyncio.create_task(t.call("terminal", {"command": "sleep 60"}, call_id="call_of_duty"))
            while (rows := await ask(port, "/api/tasks")).get("call_of_duty", {}).get("state") != "STARTED":
                await asyncio.sleep(0.05)
            ok, failed, late, unknown = (rows[call.call_id] for call in calls)
            assert ok["name"] == "terminal"
            assert ok["args"].startswith('{"command": "echo hi')
            assert len(ok["args"]) <= 200
            assert ok["worker"].startswith("w1@")
            assert (ok["state"], failed["state"]) == ("SUCCESS", "SUCCESS")
            assert ok["runtime"] > 0
            assert failed["result"].startswith("exit 3")
            assert (late["state"], unknown["state"], unknown["name"]) == ("FAILURE", "FAILURE", "terminla")
            assert "timed out after 1 s" in late["exception"]
            assert "toolfleet.accept" not in {row["name"] for row in rows.values()}
            await ask(port, "/api/task/revoke/call_of_duty?terminate=true", "POST")
            assert (await running).status is Status.CANCELLED
