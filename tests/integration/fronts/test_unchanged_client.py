"""F13: an environment written for the predecessors runs as it is; only an import, or a URL, is another."""

import asyncio
import uuid
from typing import Any

import pytest
from http_fronts import serving
from predecessor import TURNS, ExecTool, ExecutorClient, Result, SandboxClient, setup_workspace, verify_and_score
from pydantic import SecretStr

from toolfleet.config.errors import TrajectoryClosed
from toolfleet.producer import Fleet
from toolfleet.producer.adapters.atropos import ToolCall
from toolfleet.producer.adapters.slots import SlotState
from toolfleet.producer.adapters.tool_backend import FleetToolBackend
from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.executor import executor_app
from toolfleet.producer.fronts.sandbox import sandbox_app

pytestmark = pytest.mark.asyncio(loop_scope="module")

GROUP = 12


async def rollout(exec_tool: ExecTool) -> float:
    """One trajectory of the environment; its reward."""
    await setup_workspace(exec_tool)
    for text in TURNS:
        for call in ToolCall.parse_from_text(text):
            result = await exec_tool(call.name, call.arguments, 30)
            assert result.success, result.error
    return await verify_and_score(exec_tool)


async def test_the_python_interface(executor: ToolExecutor) -> None:
    async def one() -> float:
        trajectory_id = str(uuid.uuid4())

        async def exec_tool(name: str, arguments: dict[str, Any], timeout: float) -> Result:
            return await executor.execute(trajectory_id, ToolCall(name=name, arguments=arguments), timeout_s=timeout)

        try:
            return await rollout(exec_tool)
        finally:
            await executor.release_trajectory(trajectory_id, reset_workspace=True)

    assert await asyncio.gather(*(one() for _ in range(GROUP))) == [1.0] * GROUP
    assert executor.total_errors == 0


async def test_the_executor_server(executor: ToolExecutor) -> None:
    async with serving(executor_app(executor, SecretStr("secret"))) as url:
        client = ExecutorClient(url, "secret")

        async def one() -> float:
            trajectory_id = str(uuid.uuid4())

            async def exec_tool(name: str, arguments: dict[str, Any], timeout: float) -> Result:
                return await client.execute(trajectory_id, name, arguments, timeout)

            try:
                return await rollout(exec_tool)
            finally:
                await client.release(trajectory_id)

        try:
            assert await asyncio.gather(*(one() for _ in range(GROUP))) == [1.0] * GROUP
        finally:
            await client.close()


async def test_the_sandbox_server(executor: ToolExecutor) -> None:
    async with serving(sandbox_app(executor, slots=4)) as url:
        client = SandboxClient(url)
        await client.start()

        async def one() -> float:
            slot_id = await client.acquire()

            async def exec_tool(name: str, arguments: dict[str, Any], timeout: float) -> Result:
                given = {key: value for key, value in arguments.items() if key != "allow_network"}
                return await client.execute(slot_id, name, given, timeout)

            try:
                return await rollout(exec_tool)
            finally:
                await client.release(slot_id)

        try:
            assert await asyncio.gather(*(one() for _ in range(GROUP))) == [1.0] * GROUP
        finally:
            await client.close()


async def test_the_backend_of_an_executor_that_an_environment_brings(fleet: Fleet) -> None:
    """B3: slots are acquired, batches come back in order, and releasing leaves nothing."""
    async with FleetToolBackend(fleet=fleet) as backend:
        slots = await asyncio.gather(*(backend.acquire(f"t{n}") for n in range(3)))
        assert [(slot.state, slot.trajectory_id) for slot in slots] == [(SlotState.ACQUIRED, f"t{n}") for n in range(3)]
        assert all(slot.alloc_id.startswith("embedded-") for slot in slots)
        batch = [(slot, "bash", {"command": f"echo {n} >> log; cat log"}) for n, slot in enumerate(slots * 2)]
        results = await backend.execute_batch([*batch, (slots[0], "nope", {})], timeout_s=30)
        assert [result.output for result in results] == ["0\n", "1\n", "2\n", "0\n3\n", "1\n4\n", "2\n5\n", ""]
        assert results[-1].error == "Unknown tool: nope"
        assert [result.slot_id for result in results[:3]] == ["t0", "t1", "t2"]
        assert len({result.execution_id for result in results}) == len(results)
        for _ in range(2):
            await backend.release(slots[0], reset_workspace=True)
            assert (slots[0].state, slots[0].trajectory_id) == (SlotState.AVAILABLE, None)
        assert "was released" in (await backend.execute_batch([(slots[0], "bash", {"command": "true"})]))[0].error
        with pytest.raises(TrajectoryClosed, match="was released"):
            await backend.acquire("t0")
