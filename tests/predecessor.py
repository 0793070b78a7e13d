"""Clients as the predecessors' users have them, and an environment over them; nothing here knows toolfleet.

The environment is a small software task: set up a workspace, let a scripted model fix a program, run the tests in the
same workspace, and release it whatever happened.
"""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp


def written(name: str, **arguments: object) -> str:
    """A call as the model writes it."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


#: What the model writes, turn by turn. The second call is malformed, as models' calls are.
TURNS = [
    f"Let me look. {written('terminal', command='cat add.py', allow_network=True)}",
    'I see. <tool_call>{"name": "terminal", "arguments": </tool_call>',
    written("write_file", path="add.py", content="def add(a, b):\n    return a + b\n"),
    written("bash", command="python3 -c 'import add; print(add.add(1, 2))'"),
]
TESTS = "from add import add; assert add(2, 2) == 4; assert add(-1, 1) == 0; print('passed')"


class Result(Protocol):
    """What an environment reads of a result."""

    success: bool
    output: str
    error: str
    metadata: dict[str, Any]


ExecTool = Callable[[str, dict[str, Any], float], Awaitable[Result]]


@dataclass
class Answer:
    """A result that came over HTTP."""

    success: bool
    output: str
    error: str
    metadata: dict[str, Any] = field(default_factory=dict)


class ExecutorClient:
    """The ToolExecutor server over HTTP."""

    def __init__(self, base_url: str, token: str) -> None:
        self._session = aiohttp.ClientSession(base_url, headers={"Authorization": f"Bearer {token}"})

    async def execute(self, trajectory_id: str, name: str, arguments: dict[str, Any], timeout_s: float) -> Answer:
        """Run one tool."""
        tool = {"name": name, "arguments": arguments, "uniq_id": str(uuid.uuid4())}
        body = {"trajectory_id": trajectory_id, "tool": tool, "timeout_s": timeout_s}
        async with self._session.post("/execute", json=body) as response:
            response.raise_for_status()
            said = await response.json()
        assert said.pop("uniq_id") == tool["uniq_id"]
        return Answer(**said)

    async def release(self, trajectory_id: str) -> None:
        """Give the slot back."""
        body = {"trajectory_id": trajectory_id, "reset_workspace": True}
        async with self._session.post("/release", json=body) as response:
            assert await response.json() == {"status": "ok"}

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()


class SandboxClient:
    """The sandbox server over HTTP, with slots that this side hands out."""

    def __init__(self, base_url: str) -> None:
        self._session = aiohttp.ClientSession(base_url, timeout=aiohttp.ClientTimeout(total=30))
        self._free: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> None:
        """Learn which slots there are."""
        async with self._session.get("/health") as response:
            assert (await response.json())["status"] == "ok"
        async with self._session.get("/slots") as response:
            for slot in (await response.json())["slots"]:
                assert slot["state"] == "available"
                self._free.put_nowait(slot["slot_id"])

    async def acquire(self) -> str:
        """A slot that nobody has."""
        return await self._free.get()

    async def execute(self, slot_id: str, name: str, arguments: dict[str, Any], timeout_s: float) -> Answer:
        """Run one tool; a transport that breaks is tried three times."""
        name = {"terminal": "bash"}.get(name, name)
        body = {"slot_id": slot_id, "tool": name, "args": arguments, "timeout": timeout_s}
        body["execution_id"] = execution_id = str(uuid.uuid4())
        for attempt in range(3):
            try:
                async with self._session.post("/execute", json=body) as response:
                    said = await response.json()
                break
            except aiohttp.ClientError:
                if attempt == 2:
                    raise
        assert said.pop("execution_id") == execution_id
        return Answer(**said)

    async def release(self, slot_id: str) -> None:
        """Empty the slot and give it back."""
        async with self._session.post("/reset", json={"slot_id": slot_id}) as response:
            assert (await response.json())["success"]
        self._free.put_nowait(slot_id)

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()


async def setup_workspace(exec_tool: ExecTool) -> None:
    """Put the task there."""
    broken = "def add(a, b):\n    return a - b\n"
    made = await exec_tool("write_file", {"path": "add.py", "content": broken}, 60)
    assert made.success, made.error


async def verify_and_score(exec_tool: ExecTool) -> float:
    """Run the tests in the workspace that the model left."""
    tested = await exec_tool("terminal", {"command": f'python3 -c "{TESTS}"'}, 600)
    assert tested.metadata["exit_code"] in (0, 1)
    return 1.0 if tested.success and tested.output == "passed\n" else 0.0
