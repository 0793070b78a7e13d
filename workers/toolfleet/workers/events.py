"""What Flower shows: one row for each call, though a message carries many."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from toolfleet.config.contract import Status, ToolResult

if TYPE_CHECKING:
    from toolfleet.workers.run import Run

log = logging.getLogger(__name__)

#: Characters of the arguments and of the output that an event carries.
SHORT = 200
#: Seconds that events wait for company before they leave together.
FLUSH_AFTER = 0.3
#: Events held while Redis is away; older ones are dropped first.
LIMIT = 10_000

Send = Callable[[list[tuple[str, dict[str, Any]]]], None]


class EventLog:
    """Gathers events of calls and sends them in groups, from a thread of its own because kombu blocks.

    Nothing is gathered while nobody listens: `listening` is asked first.
    """

    def __init__(self) -> None:
        self.send: Send | None = None
        self.listening: Callable[[], bool] = lambda: False
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="toolfleet-events")
        self._flusher: asyncio.Task[None] | None = None

    def call(self, kind: str, run: "Run", result: ToolResult | None) -> None:
        """Note one step of a call; ``ended`` becomes the event that fits its result."""
        if self.send is None or not self.listening():
            return
        fields: dict[str, Any] = {"uuid": run.call_id, "retries": run.attempts - 1}
        if kind == "task-received":
            fields |= _received(run)
        elif kind == "task-retried":
            fields |= {"exception": "sandbox could not be started", "traceback": ""}
        elif result is not None:
            kind, more = _ended(result)
            fields |= more
        self._events.append((kind, {"timestamp": time.time(), **fields}))
        del self._events[:-LIMIT]
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush_soon())

    async def close(self) -> None:
        """Send what is left."""
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        self._thread.shutdown(wait=True)

    async def _flush_soon(self) -> None:
        await asyncio.sleep(FLUSH_AFTER)
        self._flusher = None
        batch, self._events = self._events, []
        if self.send is not None and batch:
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self.send, batch)
            except Exception as error:  # noqa: BLE001 - events are a picture of the work, never a reason to stop it
                log.warning("%d events could not be sent: %s", len(batch), error)


def _received(run: "Run") -> dict[str, Any]:
    call = run.require()
    arguments = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False)
    return {
        "name": call.name,
        "args": _short(arguments),
        "kwargs": json.dumps({"trajectory": call.trajectory_id}),
        "root_id": None,
        "parent_id": None,
        "eta": None,
        "expires": None,
    }


def _ended(result: ToolResult) -> tuple[str, dict[str, Any]]:
    if result.status is Status.OK:
        shown = f"exit {result.exit_code}: {_short(result.output)}"
        return "task-succeeded", {"result": shown, "runtime": result.timing.ran}
    if result.status is Status.CANCELLED:
        return "task-revoked", {"terminated": result.executed == "yes", "signum": None, "expired": False}
    return "task-failed", {"exception": _short(f"{result.status}: {result.error}"), "traceback": ""}


def _short(text: str) -> str:
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."
