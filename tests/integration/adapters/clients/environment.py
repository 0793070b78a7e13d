"""Written for a HermesAgentLoop with a tool handler, and for a ToolContext in the reward function."""

import asyncio
import json
from typing import Any

from environments.agent_loop import ScriptedLoop, ScriptedServer, block
from environments.dispatch import tool_handler
from environments.tool_context import ToolContext

SCRIPTS = {
    "solves": [
        ("terminal", {"command": "mkdir -p /tmp/w && echo 42 > /tmp/w/answer"}),
        ("read_file", {"path": "/tmp/w/answer"}),
    ],
    "fails": [("terminal", {"command": "exit 1"}), ("no_such_tool", {})],
}


async def compute_reward(item: dict[str, Any], messages: list[dict[str, Any]], ctx: ToolContext) -> float:
    """Look at what the model left, in the sandbox where it worked."""
    seen = ctx.terminal("cat /tmp/w/answer", timeout=30)
    if seen["exit_code"] != 0:
        return 0.0
    ctx.write_file("/tmp/w/verdict", seen["output"])
    content = ctx.read_file("/tmp/w/verdict")["content"]
    raw = json.loads(ctx.call_tool("terminal", {"command": "test $(cat /tmp/w/verdict) = 42"}))
    return 1.0 if raw["exit_code"] == 0 and content.endswith("42") else 0.0


async def rollout(item: dict[str, Any]) -> tuple[str, float, list[str]]:
    """One task from its first turn to its reward."""
    loop = ScriptedLoop(
        ScriptedServer([block(name, **args) for name, args in SCRIPTS[item["name"]]]),
        task_id=item["name"],
        tool_handler=tool_handler(),
    )
    messages = await loop.run([{"role": "user", "content": "write 42"}])
    ctx = ToolContext(loop.task_id)
    try:
        reward = await compute_reward(item, messages, ctx)
    finally:
        ctx.cleanup()
    errors = [str(json.loads(m["content"]).get("error")) for m in messages if m["role"] == "tool"]
    return item["name"], reward, errors


async def main() -> None:
    """Both tasks side by side."""
    for name, reward, errors in await asyncio.gather(*(rollout({"name": name}) for name in SCRIPTS)):
        print(name, reward, [error[:28] for error in errors])


if __name__ == "__main__":
    asyncio.run(main())
