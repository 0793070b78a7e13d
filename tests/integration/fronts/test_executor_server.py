"""The ToolExecutor server over real HTTP: B6b's routes, and what it bears."""

import asyncio
import uuid
from typing import Any

import aiohttp
import pytest
from http_fronts import client, serving
from pydantic import SecretStr

from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.executor import executor_app
from toolfleet.producer.fronts.guard import Limits

pytestmark = pytest.mark.asyncio(loop_scope="module")


def bash(trajectory_id: str, command: str, **more: Any) -> dict[str, Any]:
    """The body of a request that runs ``command``."""
    return {"trajectory_id": trajectory_id, "tool": {"name": "bash", "arguments": {"command": command}}} | more


async def post(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request that is served."""
    async with http.post(path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())


class TestRoutes:
    async def test_a_trajectory_is_run_and_released(self, http: aiohttp.ClientSession) -> None:
        said = await post(http, "/execute", bash("t", "echo hi", timeout_s=30))
        assert (said["success"], said["output"], said["error"]) == (True, "hi\n", "")
        assert said["metadata"]["exit_code"] == 0
        assert await post(http, "/release", {"trajectory_id": "t", "reset_workspace": True}) == {"status": "ok"}

    async def test_health_and_status(self, http: aiohttp.ClientSession) -> None:
        await post(http, "/execute", bash("t", "true"))
        async with http.get("/health") as answer:
            assert await answer.json() == {"status": "ok"}
        async with http.get("/status") as answer:
            said = await answer.json()
        assert (said["queue_size"], said["total_requests"], said["total_errors"]) == (0, 1, 0)
        assert (said["pool"]["total_slots"], said["pool"]["containers"]) == (8, 2)
        assert said["pool"]["acquired_slots"] >= 1

    async def test_the_callers_id_comes_back(self, http: aiohttp.ClientSession) -> None:
        body = bash("t", "true")
        body["tool"]["uniq_id"] = "from-the-model"
        assert (await post(http, "/execute", body))["uniq_id"] == "from-the-model"

    async def test_artifacts_need_a_slot(self, http: aiohttp.ClientSession) -> None:
        for verb, extra in (("read", {"path": "a"}), ("list", {}), ("archive", {})):
            said = await post(http, f"/artifacts/{verb}", {"trajectory_id": "nobody", **extra})
            assert said["error"] == "No active slot for trajectory (run a sandbox tool first)"

    @pytest.mark.parametrize("body", [b"{", b"", b"\xff", b'{"trajectory_id": "t"}', b"[" * 100_000, b'"\\ud800"'])
    async def test_what_is_no_request_is_told_as_a_problem(self, http: aiohttp.ClientSession, body: bytes) -> None:
        async with http.post("/execute", data=body, headers={"content-type": "application/json"}) as answer:
            assert answer.status == 422
            assert (await answer.json())["success"] is False


class TestRepeats:
    """Defect 17: a client that repeats a request must not run the command again."""

    async def test_the_same_call_at_once_and_later_runs_once(self, http: aiohttp.ClientSession) -> None:
        body = bash("t", "echo ran >> log; cat log")
        body["tool"]["uniq_id"] = str(uuid.uuid4())
        answers = await asyncio.gather(*(post(http, "/execute", body) for _ in range(8)))
        assert {answer["output"] for answer in [*answers, await post(http, "/execute", body)]} == {"ran\n"}

    async def test_a_client_that_left_finds_its_call_again(self, http: aiohttp.ClientSession) -> None:
        body = bash("t", "echo ran >> log; sleep 1; cat log")
        body["tool"]["uniq_id"] = str(uuid.uuid4())
        with pytest.raises(TimeoutError):
            await http.post("/execute", json=body, timeout=aiohttp.ClientTimeout(total=0.3))
        assert (await post(http, "/execute", body))["output"] == "ran\n"

    @pytest.mark.parametrize("ident", ["1", str(uuid.UUID(int=7))])
    async def test_an_id_that_a_model_uses_again_brings_no_old_answer(
        self, http: aiohttp.ClientSession, ident: str
    ) -> None:
        for command, output in (("echo one", "one\n"), ("echo two", "two\n")):
            body = bash("t", command)
            body["tool"]["uniq_id"] = ident
            assert (await post(http, "/execute", body))["output"] == output


class TestCrowds:
    async def test_64_trajectories_at_once_keep_apart_and_all_finish(self, http: aiohttp.ClientSession) -> None:
        """F1 over HTTP: eight slots, 64 rollouts of three turns."""

        async def rollout(number: int) -> str:
            ident = f"rollout-{number}"
            for _ in range(2):
                assert (await post(http, "/execute", bash(ident, f"echo {number} >> log")))["success"]
            output = (await post(http, "/execute", bash(ident, "cat log")))["output"]
            await post(http, "/release", {"trajectory_id": ident})
            return str(output)

        outputs = await asyncio.gather(*map(rollout, range(64)))
        assert outputs == [f"{number}\n{number}\n" for number in range(64)]


class TestGuard:
    @pytest.mark.parametrize(
        ("header", "status"),
        [
            (None, 401),
            ("", 401),
            ("Bearer", 401),
            ("Bearer ", 401),
            ("Basic c2VjcmV0", 401),
            ("secret", 401),
            ("Bearer secret2", 403),
            ("Bearer secre", 403),
            ("Bearer \xff", 403),
            ("Bearer secret", 200),
            ("bearer secret", 200),
        ],
    )
    async def test_only_who_has_the_token_comes_in(
        self, executor: ToolExecutor, header: str | None, status: int
    ) -> None:
        headers = {} if header is None else {"authorization": header}
        async with serving(executor_app(executor, SecretStr("secret"))) as url, client(url) as http:
            async with http.get("/status", headers=headers) as answer:
                assert answer.status == status
            async with http.get("/health", headers=headers) as answer:
                assert answer.status == 200

    async def test_a_large_body_is_turned_away_announced_or_not(self, executor: ToolExecutor) -> None:
        async def chunks() -> Any:
            for _ in range(100):
                yield b"x" * 1_000

        async with serving(executor_app(executor, limits=Limits(max_body=10_000))) as url, client(url) as http:
            for body in (b"x" * 100_000, chunks()):
                async with http.post("/execute", data=body) as answer:
                    assert answer.status == 413
                    assert "larger than 10000 bytes" in (await answer.json())["error"]

    async def test_a_body_that_never_comes_is_not_waited_for(self, executor: ToolExecutor) -> None:
        async with serving(executor_app(executor, limits=Limits(body_timeout=0.2))) as url:
            host, port = url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST /execute HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
            writer.close()

    async def test_more_than_it_bears_is_told_to_come_again(self, executor: ToolExecutor) -> None:
        async with serving(executor_app(executor, limits=Limits(max_requests=1))) as url, client(url) as http:
            command = "until test -e go; do sleep 0.01; done"
            running = asyncio.create_task(post(http, "/execute", bash("t", command, timeout_s=50)))
            while executor.queue_size() == 0:
                await asyncio.sleep(0.01)
            async with http.get("/status") as answer:
                assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            await executor.backend.open("t").call("terminal", {"command": "touch go"}, parallel=True)
            assert (await running)["success"]
            async with http.get("/status") as answer:
                assert answer.status == 200

    async def test_bodies_that_are_too_much_together_are_turned_away(self, executor: ToolExecutor) -> None:
        limits = Limits(max_bodies=5_000)
        async with serving(executor_app(executor, limits=limits)) as url, client(url) as http:
            async with http.post("/execute", data=b"x" * 6_000) as answer:
                assert answer.status == 429
            assert (await post(http, "/execute", bash("t", "true")))["success"]
