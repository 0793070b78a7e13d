"""L2, L5: an agent loop that gives its calls to a handler."""

import asyncio
import json
from typing import Any

import pytest
from fleet_processes import worker
from integration.adapters.scripted_loop import ScriptedLoop, ScriptedServer, block, replies

from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet, SyncFleet
from toolfleet.producer.adapters.handler import tool_handler
from toolfleet.producer.adapters.rollouts import Rollouts
from toolfleet.producer.adapters.shapes.common import RECREATED
from toolfleet.producer.agent import CallMetrics

SCRIPT = [
    "I look first.\n" + block("terminal", command="echo 42 > /tmp/answer; echo written"),
    block("read_file", path="/tmp/answer") + block("terminal", command="exit 3"),
    block("terminla", command="ls") + '<tool_call>{"name": "terminal", "arguments": "cat /tmp/answer"}</tool_call>',
    block("terminal", command="sleep 60", timeout=1),
]


async def test_a_loop_runs_to_its_end(rollouts: Rollouts) -> None:
    handler = tool_handler(rollouts)
    loop = ScriptedLoop(ScriptedServer(SCRIPT), task_id="a", tool_handler=handler)
    messages = await loop.run([{"role": "user", "content": "answer"}])
    assert messages[-1]["content"] == "I am done."
    written, read, failed, unknown, bare, slow = replies(messages)
    assert written == {"output": "written\n", "exit_code": 0, "error": None}
    assert read["content"] == "     1|42"
    assert failed == {"output": "", "exit_code": 3, "error": None}
    assert unknown["error"].startswith("Unknown tool 'terminla'. Available tools: [")
    assert bare == {"output": "42\n", "exit_code": 0, "error": None}
    assert slow == {"output": "", "exit_code": 124, "error": "Command timed out after 1 seconds"}
    assert await handler.metrics("a") == CallMetrics(ok=4, error=1, rejected=1, schema_valid=5)


async def test_many_loops_share_a_handler_and_never_a_sandbox(rollouts: Rollouts) -> None:
    handler = tool_handler(rollouts)

    async def loop(number: int) -> list[dict[str, Any]]:
        script = [block("terminal", command=f"echo {number} >> /tmp/n"), block("terminal", command="cat /tmp/n")]
        loop = ScriptedLoop(ScriptedServer(script), task_id=f"task-{number}", tool_handler=handler)
        said = replies(await loop.run([]))
        await handler.release(loop.task_id)
        return said

    for number, said in enumerate(await asyncio.gather(*map(loop, range(16)))):
        assert said[1]["output"] == f"{number}\n"


async def test_a_task_that_was_released_begins_anew(rollouts: Rollouts) -> None:
    handler = tool_handler(rollouts)
    await handler("terminal", {"command": "touch /tmp/mine"}, "a")
    report = await handler.release("a")
    assert (report.closed, report.error, report.metrics) == (True, None, CallMetrics(ok=1, schema_valid=1))
    assert report.trajectory_id is not None
    assert report.trajectory_id.startswith("a_")
    assert (await handler.release("a")).trajectory_id is None
    assert json.loads(await handler("terminal", {"command": "ls /tmp"}, "a"))["output"] == ""


async def test_a_task_may_have_an_environment_of_its_own(rollouts: Rollouts) -> None:
    """T9: overrides for one task, registered before its loop."""
    handler = tool_handler(rollouts)
    rollouts.configure("a", profile="reader")
    rollouts.configure("b", tools=frozenset({"terminal"}))
    denied = json.loads(await handler("terminal", {"command": "ls"}, "a"))
    assert "does not allow the tool 'terminal'" in denied["error"]
    unknown = json.loads(await handler("read_file", {"path": "/f"}, "b"))
    assert unknown == {"error": "Unknown tool 'read_file'. Available tools: ['terminal']"}
    assert (await handler.metrics("b")).rejected == 1
    with pytest.raises(ValueError, match="has its sandbox already"):
        rollouts.configure("a", profile="default")


async def test_cancelling_a_loop_stops_its_command(rollouts: Rollouts) -> None:
    """Defect 41: the cancellation reaches the sandbox."""
    handler = tool_handler(rollouts)
    running = asyncio.create_task(handler("terminal", {"command": "touch /tmp/begun; sleep 60"}, "a"))
    trajectory = rollouts.trajectory("a")

    async def begun() -> bool:
        seen = await rollouts.bridge.carry(trajectory.call("terminal", {"command": "ls /tmp"}, parallel=True))
        return bool(seen.stdout)

    while not await begun():
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert json.loads(await handler("terminal", {"command": "pgrep sleep"}, "a"))["exit_code"] == 1


async def test_what_cannot_be_called_is_a_reply_and_never_an_error(rollouts: Rollouts) -> None:
    handler = tool_handler(rollouts)
    surrogate = json.loads(await handler("terminal", '{"command": "echo \\ud800"}', "a"))
    assert surrogate["error"].startswith("Tool execution failed: InvalidArguments: ")
    assert json.loads(await handler("terminal", None, "a"))["status"] == "error"  # type: ignore[arg-type]
    rollouts.configure("b", profile="nobody-serves-it")
    unserved = json.loads(await handler("terminal", {"command": "ls"}, "b"))
    assert (unserved["exit_code"], unserved["status"], unserved["reason"]) == (-1, "degraded", "NoWorkerForProfile")
    assert (await handler.metrics("a")).rejected == 2
    assert (await handler.metrics("b")).infrastructure == 1


async def test_a_sandbox_that_was_taken_away_is_told_once(rollouts: Rollouts, fleet: SyncFleet) -> None:
    """D3, N5: idle sandboxes are reaped; the model is told, and goes on in an empty one."""
    handler = tool_handler(rollouts)
    await handler("terminal", {"command": "touch /tmp/mine"}, "a")
    trajectory_id = rollouts.trajectory("a").id
    await fleet.bridge.carry(fleet.inner.state.close(trajectory_id))
    said = [
        json.loads(reply) for reply in await asyncio.gather(*(handler("terminal", "ls /tmp", "a") for _ in range(4)))
    ]
    told = [reply for reply in said if "environment_recreated" in reply]
    assert [reply["reason"] for reply in told] == ["TrajectoryClosed"]
    assert [reply["output"] for reply in said if reply not in told] == [""] * 3


async def test_a_handler_over_a_fleet_of_the_same_loop(settings: Settings, redis_url: str) -> None:
    with worker("w1", redis_url) as first, worker("w2", redis_url) as second:
        async with Fleet.connect(settings) as fleet:
            while len(await fleet.state.workers()) < 2:
                await asyncio.sleep(0.02)
            handler = tool_handler(fleet)
            await handler("terminal", {"command": "true"}, "a")
            held = await fleet.state.redis.hget(fleet.state.key("lease", fleet.open_ids()[0]), "worker")
            holder = first if held == b"w1" else second
            holder.kill()
            holder.wait()
            lost = json.loads(await handler("terminal", {"command": "ls"}, "a"))
            assert (lost["status"], lost["reason"]) == ("degraded", "lost")
            assert lost["environment_recreated"] == RECREATED
            again = json.loads(await handler("terminal", {"command": "echo hi"}, "a"))
            assert again == {"output": "hi\n", "exit_code": 0, "error": None}
            assert await handler.metrics("a") == CallMetrics(ok=2, error=1, schema_valid=3, infrastructure=1)
