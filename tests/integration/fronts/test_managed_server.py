"""B13: managed sandboxes over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from http_fronts import client, serving

from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.managed import managed_app

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def managed(executor: ToolExecutor) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the server."""
    async with serving(managed_app(executor)) as url, client(url) as session:
        yield session


async def ask(http: aiohttp.ClientSession, method: str, path: str, status: int = 200, **options: Any) -> dict[str, Any]:
    """The answer to a request, which has that status."""
    async with http.request(method, f"/v1/sandboxes{path}", **options) as answer:
        assert answer.status == status, await answer.text()
        return dict(await answer.json())


async def create(http: aiohttp.ClientSession, **fields: Any) -> str:
    """A new sandbox's id."""
    return str((await ask(http, "POST", "", json=fields))["id"])


async def run(http: aiohttp.ClientSession, sandbox: str, exec_id: str, command: str, **fields: Any) -> dict[str, Any]:
    """Run a command and poll until it has ended."""
    seen = await ask(
        http, "POST", f"/{sandbox}/execs", json={"execId": exec_id, "command": command, "timeoutMs": 60_000, **fields}
    )
    while seen["status"] == "running":
        seen = await ask(http, "GET", f"/{sandbox}/execs/{exec_id}")
    return seen


async def test_a_sandbox_is_made_used_and_ended(managed: aiohttp.ClientSession) -> None:
    sandbox = await create(managed, cwd="/tmp", memoryMiB=512, timeoutMs=3_600_000, persistentFilesystem=True)
    seen = await run(managed, sandbox, "e1", "pwd; echo err >&2; exit 3")
    assert (seen["status"], seen["returncode"]) == ("completed", 3)
    assert seen["output"] == "/tmp\n\n[stderr]\nerr\n"
    assert (await run(managed, sandbox, "e2", "pwd", cwd="/"))["output"] == "/\n"
    ended = await ask(managed, "POST", f"/{sandbox}/terminate", json={"snapshotBeforeTerminate": True})
    assert (ended["status"], ended["snapshotId"]) == ("terminated", None)
    assert (await ask(managed, "POST", f"/{sandbox}/terminate", 404))["error"] == f"no sandbox {sandbox!r}"


async def test_requests_that_are_repeated_do_nothing_twice(managed: aiohttp.ClientSession) -> None:
    """D9: the same idempotency key is the same sandbox, the same execution id the same execution."""
    key = {"x-idempotency-key": "task-1"}
    made = [await ask(managed, "POST", "", json={}, headers=key) for _ in range(2)]
    assert made[0] == made[1]
    sandbox = made[0]["id"]
    command = "echo ran >> log; cat log"
    said = await asyncio.gather(*(run(managed, sandbox, "once", command) for _ in range(4)))
    assert {one["output"] for one in [*said, await run(managed, sandbox, "once", command)]} == {"ran\n"}


async def test_standard_input_reaches_the_command_whatever_is_in_it(managed: aiohttp.ClientSession) -> None:
    sandbox = await create(managed)
    data = 'it\'s "quoted"\n$(touch x)\nEOF\n' + "x" * 200_000
    seen = await run(managed, sandbox, "e1", "cat > got; wc -c < got; ls -A /tmp /workspace", stdinData=data)
    assert seen["output"].split() == [str(len(data)), "/tmp:", "/workspace:", "got"]


async def test_an_execution_is_seen_running_and_cancelled(managed: aiohttp.ClientSession) -> None:
    sandbox = await create(managed)
    seen = await ask(managed, "POST", f"/{sandbox}/execs", json={"execId": "long", "command": "sleep 300"})
    assert (seen["status"], seen["returncode"]) == ("running", None)
    cancelled = await ask(managed, "POST", f"/{sandbox}/execs/long/cancel")
    assert (cancelled["status"], cancelled["returncode"]) == ("cancelled", 130)
    assert (await run(managed, sandbox, "after", "pgrep sleep"))["returncode"] == 1
    assert (await ask(managed, "POST", f"/{sandbox}/execs/after/cancel"))["status"] == "completed"


async def test_a_timeout_keeps_what_was_printed(managed: aiohttp.ClientSession) -> None:
    sandbox = await create(managed)
    seen = await run(managed, sandbox, "e1", "echo half; sleep 60", timeoutMs=1_000)
    assert (seen["status"], seen["returncode"], seen["output"]) == ("timeout", 124, "half\n")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image": "python:3.11"}, "the profile's image is None"),
        ({"memoryMiB": 1_000_000}, "memory_mib of the profile is 1024"),
        ({"diskMiB": 1_000_000}, "disk_mib of the profile is 512"),
        ({"cpu": 0}, "greater than 0"),
    ],
)
async def test_what_the_profile_does_not_give_is_refused(
    managed: aiohttp.ClientSession, fields: dict[str, Any], says: str
) -> None:
    assert says in (await ask(managed, "POST", "", 422, json=fields))["error"]


@pytest.mark.parametrize("limit", ["timeoutMs", "idleTimeoutMs"])
async def test_a_sandbox_ends_by_itself(managed: aiohttp.ClientSession, limit: str) -> None:
    sandbox = await create(managed, **{limit: 300})
    while True:
        async with managed.get(f"/v1/sandboxes/{sandbox}/execs/none") as answer:
            if "no sandbox" in (await answer.json())["error"]:
                break
        await asyncio.sleep(0.02)


async def test_a_sandbox_is_not_idle_while_a_command_runs(managed: aiohttp.ClientSession) -> None:
    """Defect 47: activity was noted at the start of a call only."""
    sandbox = await create(managed, idleTimeoutMs=2_000)
    assert (await run(managed, sandbox, "e1", "sleep 3; echo done"))["output"] == "done\n"


async def test_what_does_not_exist_is_404(managed: aiohttp.ClientSession) -> None:
    assert (await ask(managed, "GET", "/nope/execs/e1", 404))["error"] == "no sandbox 'nope'"
    sandbox = await create(managed)
    assert (await ask(managed, "GET", f"/{sandbox}/execs/e9", 404))["error"] == "no execution 'e9'"
