"""The sandbox server over real HTTP: B4's routes, statuses and strings."""

import asyncio
from typing import Any

import aiohttp
import pytest
from http_fronts import client, serving

from toolfleet.producer import Fleet
from toolfleet.producer.adapters.tool_backend import FleetToolBackend
from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.sandbox import sandbox_app

pytestmark = pytest.mark.asyncio(loop_scope="module")


def bash(slot_id: str, command: str, **more: Any) -> dict[str, Any]:
    """The body of a request that runs ``command``."""
    return {"slot_id": slot_id, "tool": "bash", "args": {"command": command}} | more


async def post(http: aiohttp.ClientSession, path: str, body: Any, status: int = 200) -> Any:
    """The answer to a request, which has that status."""
    async with http.post(path, json=body) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def get(http: aiohttp.ClientSession, path: str) -> Any:
    """The answer to a question."""
    async with http.get(path) as answer:
        assert answer.status == 200
        return await answer.json()


class TestExecute:
    async def test_a_command_that_succeeds(self, sandbox_server: aiohttp.ClientSession) -> None:
        said = await post(sandbox_server, "/execute", bash("slot_0", "pwd", execution_id="e1"))
        assert (said["success"], said["output"], said["error"], said["execution_id"]) == (
            True,
            "/workspace\n",
            "",
            "e1",
        )
        assert said["metadata"] | {"exit_code": 0, "sandboxed": True, "network_isolated": True} == said["metadata"]

    async def test_a_command_that_fails(self, sandbox_server: aiohttp.ClientSession) -> None:
        said = await post(sandbox_server, "/execute", bash("slot_0", "echo out; echo err >&2; exit 3"))
        assert (said["success"], said["output"], said["error"]) == (False, "out\n\n[stderr]\nerr\n", "Exit code: 3")

    async def test_a_timeout(self, sandbox_server: aiohttp.ClientSession) -> None:
        said = await post(sandbox_server, "/execute", bash("slot_0", "echo half; sleep 60", timeout=1))
        assert (said["success"], said["error"]) == (False, "Command timed out after 1s")
        assert (said["output"], said["metadata"]["exit_code"], said["metadata"]["timeout"]) == ("half\n", -1, True)

    async def test_files(self, sandbox_server: aiohttp.ClientSession) -> None:
        write = {"slot_id": "slot_0", "tool": "write_file", "args": {"path": "a/b.txt", "content": "text\n"}}
        assert (await post(sandbox_server, "/execute", write))["output"] == "Successfully wrote 5 bytes to a/b.txt"
        read = {"slot_id": "slot_0", "tool": "read_file", "args": {"path": "a/b.txt"}}
        assert (await post(sandbox_server, "/execute", read))["output"] == "text\n"
        for path, error in (("none", "File not found"), ("a", "Not a file")):
            missing = {"slot_id": "slot_0", "tool": "read_file", "args": {"path": path}}
            said = await post(sandbox_server, "/execute", missing)
            assert (said["success"], said["error"].split(":")[0]) == (False, error)

    async def test_unknown_slots_and_tools_are_results(self, sandbox_server: aiohttp.ClientSession) -> None:
        assert (await post(sandbox_server, "/execute", bash("slot_9", "true")))["error"] == "Unknown slot: slot_9"
        nope = {"slot_id": "slot_0", "tool": "nope"}
        assert (await post(sandbox_server, "/execute", nope))["error"] == "Unknown tool: nope"

    async def test_9_what_a_command_prints_does_not_open_the_sandbox(
        self, sandbox_server: aiohttp.ClientSession
    ) -> None:
        """Defect 9: this text made the server run it again without a sandbox."""
        said = await post(
            sandbox_server, "/execute", bash("slot_0", "echo no permissions to create new namespace >&2; exit 1")
        )
        assert (said["metadata"]["sandboxed"], said["error"]) == (True, "Exit code: 1")

    async def test_10_nothing_of_the_server_is_in_the_environment(
        self, sandbox_server: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PROVIDER_KEY", "secret")
        assert "secret" not in (await post(sandbox_server, "/execute", bash("slot_0", "env")))["output"]

    async def test_17_the_same_execution_runs_once(self, sandbox_server: aiohttp.ClientSession) -> None:
        request = bash("slot_0", "echo ran >> log; cat log", execution_id="once")
        said = await asyncio.gather(*(post(sandbox_server, "/execute", request) for _ in range(5)))
        assert {answer["output"] for answer in said} == {"ran\n"}


class TestBatch:
    async def test_answers_stand_in_order_and_one_failure_leaves_the_others_alone(
        self, sandbox_server: aiohttp.ClientSession
    ) -> None:
        batch = [bash(f"slot_{n % 4}", f"echo {n} >> log; cat log", execution_id=f"b{n}") for n in range(8)]
        batch.insert(3, bash("slot_9", "true"))
        said = await post(sandbox_server, "/batch", batch)
        assert said.pop(3)["error"] == "Unknown slot: slot_9"
        assert [one["execution_id"] for one in said] == [f"b{n}" for n in range(8)]
        assert [one["output"] for one in said] == [f"{n}\n" for n in range(4)] + [f"{n}\n{n + 4}\n" for n in range(4)]


class TestSlots:
    async def test_a_reset_leaves_nothing(self, sandbox_server: aiohttp.ClientSession) -> None:
        """Defect 7: links to folders stood in the way of a reset, and nobody looked."""
        await post(sandbox_server, "/execute", bash("slot_1", "mkdir d; ln -s d link; touch .hidden; sleep 300 &"))
        assert await post(sandbox_server, "/reset", {"slot_id": "slot_1"}) == {"success": True, "slot_id": "slot_1"}
        said = await post(sandbox_server, "/execute", bash("slot_1", "ls -A; pgrep sleep"))
        assert said["output"] == ""
        assert (await post(sandbox_server, "/reset", {"slot_id": "x"}, 404))["error"] == "Unknown slot: x"

    async def test_6_a_slot_whose_workspace_was_reaped_says_so_once(self, fleet: Fleet) -> None:
        """Defect 6: calls went on in an empty workspace, and nobody was told."""
        async with (
            ToolExecutor(FleetToolBackend(fleet=fleet, profile="impatient")) as executor,
            serving(sandbox_app(executor, slots=1)) as url,
            client(url) as http,
        ):
            await post(http, "/execute", bash("slot_0", "echo mine > note"))
            while any(int(worker["used"]) for worker in (await fleet.state.workers()).values()):
                await asyncio.sleep(0.05)
            told = await post(http, "/execute", bash("slot_0", "ls"))
            assert (told["success"], told["metadata"]["fault"]) == (False, "infrastructure")
            assert "was closed" in told["error"]
            again = await post(http, "/execute", bash("slot_0", "ls"))
            assert (again["success"], again["output"]) == (True, "")

    async def test_8_slots_do_not_see_each_other(self, sandbox_server: aiohttp.ClientSession) -> None:
        await post(sandbox_server, "/execute", bash("slot_0", "echo secret > note"))
        url = str(sandbox_server._base_url)
        spy = f"cat note; ls /data /workspace; curl -m 2 -s {url}health || (echo > /dev/tcp/127.0.0.1/80) 2>&1"
        assert "secret" not in (said := await post(sandbox_server, "/execute", bash("slot_1", spy)))["output"]
        assert "slots" not in said["output"]

    async def test_health_and_slots_tell_what_runs(self, sandbox_server: aiohttp.ClientSession) -> None:
        idle = await get(sandbox_server, "/health")
        assert (idle["status"], idle["slots"], idle["available"], idle["executing"]) == ("ok", 4, 4, 0)
        assert (idle["bwrap_available"], idle["data_dir"]) == (True, "/workspace")
        running = asyncio.create_task(
            post(sandbox_server, "/execute", bash("slot_2", "sleep 60", execution_id="long", timeout=2))
        )
        while (await get(sandbox_server, "/health"))["executing"] == 0:
            await asyncio.sleep(0.01)
        slots = {slot["slot_id"]: slot for slot in (await get(sandbox_server, "/slots"))["slots"]}
        assert slots["slot_2"] == {
            "slot_id": "slot_2",
            "state": "executing",
            "workspace_dir": "/workspace",
            "current_execution_id": "long",
        }
        assert slots["slot_0"]["state"] == "available"
        await running


class TestProblems:
    async def test_what_is_no_json_is_400(self, sandbox_server: aiohttp.ClientSession) -> None:
        for path in ("/execute", "/batch", "/reset", "/artifacts/read"):
            async with sandbox_server.post(path, data=b"{", headers={"content-type": "application/json"}) as answer:
                assert answer.status == 400
                assert await answer.json() == {"success": False, "error": "Invalid JSON"}

    async def test_what_does_not_fit_names_the_field(self, sandbox_server: aiohttp.ClientSession) -> None:
        assert "slot_id" in (await post(sandbox_server, "/execute", {"tool": "bash"}, 400))["error"]

    async def test_artifacts_of_an_unknown_slot_are_404(self, sandbox_server: aiohttp.ClientSession) -> None:
        for verb in ("read", "list", "archive"):
            asked = {"slot_id": "slot_9", "path": "a"}
            assert (await post(sandbox_server, f"/artifacts/{verb}", asked, 404))["error"] == "Unknown slot: slot_9"
