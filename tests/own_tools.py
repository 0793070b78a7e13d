"""Tools of a user, in every place where they can run; a module that tests name in the setting ``tools``."""

import asyncio
import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from toolfleet.config.tools import Arguments, ToolFailed, tool
from toolfleet.workers.tools import Plan, Seen, Shown


@tool(where="sandbox")
def count_words(path: str, at_least: int = 1) -> dict[str, int]:
    """Count the words of a file."""
    import collections
    import os

    with open(path) as file:
        counted = collections.Counter(file.read().split())
    print("chatter")
    os.system("echo chatter of a child")
    return {word: times for word, times in counted.items() if times >= at_least}


@tool(where="sandbox")
def echo(text: str) -> str:
    """Say the same."""
    return text


@tool(where="sandbox")
def swap(first: str, second: str) -> Generator[Plan, Seen, Shown]:
    """Swap two files."""
    one = yield Plan("read", {"path": first})
    other = yield Plan("read", {"path": second})
    yield Plan("write", {"path": first}, other.outcome.stdout)
    yield Plan("write", {"path": second}, one.outcome.stdout)
    return Shown(f"swapped {one.stdout!r} and {other.stdout!r}", 0)


@tool(where="worker")
async def whoami(trajectory_id: str, call_id: str, timeout: float) -> dict[str, Any]:
    """Tell who calls."""
    return {"trajectory": trajectory_id, "call": call_id, "seconds": timeout > 0}


@tool(where="worker")
def add(a: int, b: Annotated[int, Field(ge=0)] = 1) -> int:
    """Add two numbers."""
    return a + b


@tool(where="worker")
def hold(path: str, until: str) -> str:
    """Say in a file that it runs, and block until there is another one."""
    with Path(path).open("a") as file:
        file.write("x")
    while not Path(until).exists():
        time.sleep(0.01)
    return "held"


@tool(where="worker")
async def fail(why: str, politely: bool = False) -> str:
    """Fail."""
    raise ToolFailed(why) if politely else ValueError(why)


class Search(Arguments):
    """Arguments of `look_up`."""

    query: str
    most: int = 3


@tool(where="external")
async def look_up(search: Search, task_id: str, slot_id: str | None = None) -> dict[str, Any]:
    """Look something up."""
    return {"found": [search.query] * search.most, "task": task_id, "slot": slot_id}


@tool(where="external")
def answer(value: Any) -> Any:
    """Answer with what it was given."""
    return value


@tool(where="external")
async def wait(path: str, until: str, kept: bool = False) -> str:
    """Say in a file that it runs, and wait until there is another one; when stopped, say so in the first."""
    with Path(path).open("a") as file:
        file.write("x")
    try:
        while not Path(until).exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        with Path(path).open("a") as file:
            file.write("stopped")
        raise
    return "waited"


@tool(where="external", name="block")
def _block(path: str, until: str) -> str:
    """Say in a file that it runs, and block a thread until there is another one."""
    with Path(path).open("a") as file:
        file.write("x")
    while not Path(until).exists():
        time.sleep(0.01)
    return "held"


@tool(where="external")
def exits() -> str:
    """Try to end its process."""
    raise SystemExit(7)
