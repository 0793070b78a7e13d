"""A worker is killed while it runs calls for an environment: each ends, by type, and nothing runs twice."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from fleet_processes import worker
from http_fronts import client, serving

from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer.adapters.tool_backend import FleetToolBackend
from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.executor import executor_app

TRAJECTORIES = 4
HOLD = "echo ran >> log; touch begun; until test -e go; do sleep 0.02; done; cat log"


@contextlib.contextmanager
def workers(url: str, runtime: str, *names: str) -> Iterator[dict[str, int]]:
    """Workers that reach each other's sandboxes; their process ids by name."""
    with contextlib.ExitStack() as stack:
        slots = str(TRAJECTORIES)
        started = {n: stack.enter_context(worker(n, url, slots, TOOLFLEET_RUNTIME_DIR=runtime)) for n in names}
        yield {name: process.pid for name, process in started.items()}


def request(ident: str, command: str) -> dict[str, object]:
    """The body that runs ``command`` in the trajectory ``ident``."""
    return {"trajectory_id": ident, "tool": {"name": "bash", "arguments": {"command": command}}, "timeout_s": 60}


async def test_calls_in_flight_end_and_run_once_when_their_worker_is_killed(
    settings: Settings, state: FleetState, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """F5 over HTTP: another worker of the machine goes on with what the killed one had."""
    assert settings.redis_url is not None
    url, runtime = settings.redis_url.get_secret_value(), str(tmp_path_factory.mktemp("r"))
    with workers(url, runtime, "one", "two") as pids:
        while len(await state.workers()) < len(pids):
            await asyncio.sleep(0.05)
        async with (
            ToolExecutor(FleetToolBackend(settings)) as executor,
            serving(executor_app(executor)) as served,
            client(served) as http,
        ):
            names = [f"t{n}" for n in range(TRAJECTORIES)]
            calls = [asyncio.create_task(http.post("/execute", json=request(name, HOLD))) for name in names]
            for name in names:
                trajectory = executor.backend.open(name)
                while (await trajectory.call("terminal", {"command": "test -e begun"}, parallel=True)).exit_code:
                    await asyncio.sleep(0.01)
            killed = next(name for name, fields in (await state.workers()).items() if int(fields["used"]))
            os.kill(pids[killed], signal.SIGKILL)
            while killed in await state.workers():
                await asyncio.sleep(0.05)
            for name in names:
                trajectory = executor.backend.open(name)
                await trajectory.call("terminal", {"command": "touch go"}, parallel=True)
            answers = [await (await call).json() for call in calls]
            assert [answer["output"] for answer in answers] == ["ran\n"] * TRAJECTORIES
            assert {answer["metadata"]["fault"] for answer in answers} == {"none"}


async def test_a_workspace_that_is_gone_is_told_once_and_can_be_masked(
    settings: Settings, state: FleetState, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Defect 6: later calls ran in an empty workspace, and nobody was told."""
    assert settings.redis_url is not None
    url = settings.redis_url.get_secret_value()
    async with ToolExecutor(FleetToolBackend(settings)) as executor, serving(executor_app(executor)) as served:
        with workers(url, str(tmp_path_factory.mktemp("a")), "one") as pids:
            async with client(served) as http:
                async with http.post("/execute", json=request("t", "echo mine > note")) as answer:
                    assert (await answer.json())["success"]
                os.kill(pids["one"], signal.SIGKILL)
                while await state.workers():
                    await asyncio.sleep(0.05)
                with workers(url, str(tmp_path_factory.mktemp("b")), "two"):
                    async with http.post("/execute", json=request("t", "cat note")) as answer:
                        lost = await answer.json()
                    async with http.post("/execute", json=request("t", "ls")) as answer:
                        after = await answer.json()
    assert (lost["success"], lost["metadata"]["status"]) == (False, "lost")
    assert (lost["metadata"]["fault"], lost["metadata"]["executed"]) == ("infrastructure", "no")
    assert lost["error"].startswith("Batch execution failed: ")
    assert (after["success"], after["metadata"]["workspace_generation"]) == (True, 2)
