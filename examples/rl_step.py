"""One step of reinforcement learning, offline: eight agents try to mend a small repository, a verifier scores them.

Each agent speaks as a model would, in text with tool calls in it; a script stands in for the model. The calls go to the
fleet through a `tool_handler`, as those of a HermesAgentLoop do. The reward is worked out in a fresh copy of the
workspace: nothing that the agent left running is there, and the verifier asks for values that the agent has never
seen. A rollout that infrastructure failed is masked, not scored 0.
"""

import asyncio
import io
import json
import statistics
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from toolfleet.config.errors import FleetError
from toolfleet.producer import Fleet
from toolfleet.producer.adapters.async_tool_context import AsyncToolContext
from toolfleet.producer.adapters.handler import ToolHandler, tool_handler
from toolfleet.producer.adapters.rollouts import RolloutConfig, Rollouts
from toolfleet.producer.agent import parse_hermes, view

REPOSITORY = {
    "stats.py": "def median(values):\n    return sorted(values)[len(values) // 2]\n",
    "test_stats.py": """\
import unittest
from stats import median

class Median(unittest.TestCase):
    def test_odd(self): self.assertEqual(median([3, 1, 2]), 2)
    def test_even(self): self.assertEqual(median([4, 1, 3, 2]), 2.5)

unittest.main()
""",
}
MENDED = """\
def median(values):
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
"""
#: What the verifier asks for, and what a median must say to it. Neither is ever in a sandbox of the agent.
QUESTIONS = [[7], [5, 9], [1, 1, 8], [2, 4, 6, 9], [9, 7, 5, 3, 1]]
ANSWERS = [7, 7.0, 1, 5.0, 5]

#: Turns that an agent has, and tokens that it is sent.
TURNS, CONTEXT = 6, 4_000

Message = dict[str, Any]


def call(name: str, arguments: object) -> str:
    """A tool call as a model writes it."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def shell(command: str, **more: object) -> str:
    """A call of ``terminal`` in the repository."""
    return call("terminal", {"command": command, "workdir": "/repo", **more})


def write(path: str, content: str) -> str:
    """A call of ``write_file``."""
    return call("write_file", {"path": f"/repo/{path}", "content": content})


TEST = shell("python3 test_stats.py")
#: What each agent says, turn by turn.
POLICIES = {
    "mends it": ["Let me see.\n" + TEST, write("stats.py", MENDED), TEST, "It passes."],
    "mends it, in odd JSON": [call("terminal", "cat /repo/stats.py"), write("stats.py", MENDED) + TEST, "Done."],
    "mends half of it": [write("stats.py", MENDED.replace("half - 1", "0")), TEST, "Good enough."],
    "edits the test": [write("test_stats.py", "print('OK')\n"), TEST, "It passes now."],
    "knows the answers": [write("stats.py", "def median(values):\n    return 2 if 4 not in values else 2.5\n"), TEST],
    "leaves a spy": [
        shell("(while :; do echo 'median = sum' > stats.py; sleep 0.1; done) > /dev/null 2>&1 &"),
        "That will do.",
    ],
    "never ends": [
        write("stats.py", "def median(values):\n    while True: pass\n"),
        shell("python3 test_stats.py", timeout=2),
    ],
    "asks for a tool that is not": [call("edit", {"file": "stats.py"}), "I cannot."],
}


@dataclass
class Episode:
    """One agent's rollout."""

    policy: str
    messages: list[Message] = field(default_factory=list)
    calls: str = ""
    reward: float | None = None
    """None when it is masked."""


def pack(files: dict[str, str]) -> bytes:
    """A tar archive of text files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def speak(policy: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """What the agent says next. A model would read all of ``messages``; the script counts what it has said."""
    said = sum(message["role"] == "assistant" for message in messages)
    return POLICIES[policy][said] if said < len(POLICIES[policy]) else "I have nothing to add."


async def roll_out(handler: ToolHandler, policy: str) -> list[Message]:
    """Let an agent speak until it calls no tool, and run what it calls."""
    messages: list[Message] = [{"role": "user", "content": "python3 /repo/test_stats.py fails. Mend the code."}]
    for _ in range(TURNS):
        turn = parse_hermes(speak(policy, view(messages, CONTEXT).messages))
        messages.append(turn.as_openai())
        for asked in turn.calls:
            reply = await handler(asked.name, asked.arguments, policy)
            messages.append({"role": "tool", "tool_call_id": asked.id, "content": reply})
        if not turn.calls:
            break
    return messages


async def score(context: AsyncToolContext) -> float | None:
    """1 when the mended function answers every question in a copy of the workspace, 0 when not, None when unknown."""
    ask = "import json; from stats import median; print(json.dumps([median(q) for q in json.load(open('/questions'))]))"
    async with context.verified() as clean:
        await clean.write_file("/questions", json.dumps(QUESTIONS))
        said = await clean.terminal(f'cd /repo && python3 -B -c "{ask}"', timeout=10)
        if clean.masked:
            return None
    try:
        return float(said["exit_code"] == 0 and json.loads(said["output"]) == ANSWERS)
    except ValueError:
        return 0.0


async def episode(rollouts: Rollouts, handler: ToolHandler, policy: str) -> Episode:
    """One rollout and its reward."""
    done = Episode(policy)
    try:
        done.messages = await roll_out(handler, policy)
        done.reward = await score(AsyncToolContext(policy, rollouts))
    except FleetError:
        done.reward = None  # no slot, no worker, no Redis: nothing that the policy did
    metrics = (await handler.release(policy)).metrics
    done.calls = f"{metrics.ok} + {metrics.error} + {metrics.rejected} = {metrics.attempted}"
    if metrics.infrastructure:
        done.reward = None
    return done


def table(episodes: list[Episode]) -> Table:
    """Rewards, and advantages over the mean of those that count."""
    counted = [e.reward for e in episodes if e.reward is not None]
    mean, spread = statistics.mean(counted), statistics.pstdev(counted) or 1.0
    shown = Table("agent", "ok + error + rejected", "reward", "advantage")
    for e in episodes:
        cells = ("masked", "") if e.reward is None else (f"{e.reward:.0f}", f"{(e.reward - mean) / spread:+.2f}")
        shown.add_row(e.policy, e.calls, *cells)
    return shown


async def main() -> None:
    """Run the step and print the table."""
    async with Fleet.connect(slots=8) as fleet:
        repository = await fleet.archive(pack(REPOSITORY), dest="/repo")
        rollouts = Rollouts(fleet, RolloutConfig(sweep="rl-step", setup=(repository,)))
        handler = tool_handler(rollouts)
        episodes = await asyncio.gather(*(episode(rollouts, handler, policy) for policy in POLICIES))
    Console(width=80).print(table(list(episodes)))


if __name__ == "__main__":
    asyncio.run(main())
