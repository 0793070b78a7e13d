"""An agent loop with the interface of a HermesAgentLoop, and a server that says what a script says."""

import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolfleet.producer.agent import parse_hermes

Handler = Callable[[str, dict[str, Any], str], Awaitable[str]]


@dataclass
class ScriptedServer:
    """Answers each turn with the next text of its script."""

    script: Sequence[str]
    turn: int = 0

    async def chat_completion(self, messages: list[dict[str, Any]]) -> str:
        """What a model would have written."""
        self.turn += 1
        return self.script[self.turn - 1] if self.turn <= len(self.script) else "I am done."


class ScriptedLoop:
    """Turn after turn: what the model says, then its calls in their order, each given to the handler."""

    def __init__(
        self, server: ScriptedServer, max_turns: int = 30, task_id: str | None = None, *, tool_handler: Handler
    ) -> None:
        self.server = server
        self.max_turns = max_turns
        self.task_id = task_id or str(uuid.uuid4())
        self.tool_handler = tool_handler

    async def run(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The whole conversation."""
        for _ in range(self.max_turns):
            said = parse_hermes(await self.server.chat_completion(messages))
            messages.append(said.as_openai())
            for call in said.calls:
                try:
                    arguments = json.loads(call.arguments)
                except json.JSONDecodeError:
                    arguments = call.arguments
                reply = await self.tool_handler(call.name, arguments, self.task_id)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": reply})
            if not said.calls:
                break
        return messages


def block(name: str, **arguments: Any) -> str:
    """A call as a Hermes model writes it."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def replies(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the tools said, decoded."""
    return [json.loads(message["content"]) for message in messages if message["role"] == "tool"]
