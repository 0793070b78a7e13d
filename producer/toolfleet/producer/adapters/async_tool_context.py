"""``AsyncToolContext``: what a reward function awaits to look into the sandbox that the model worked in."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from toolfleet.config.contract import Fault, new_id
from toolfleet.config.errors import FleetError, InvalidCall
from toolfleet.producer.adapters.rollouts import CleanupReport, Rollouts
from toolfleet.producer.adapters.shapes import Reply, as_json, reply, reply_of_error
from toolfleet.producer.adapters.shared import SHARED
from toolfleet.producer.adapters.transfers import Transfers
from toolfleet.producer.agent import CallMetrics

T = TypeVar("T")

#: Seconds that a command of a reward function may run when it names no timeout.
TERMINAL_TIMEOUT = 180.0


class AsyncToolContext:
    """Every tool of a task's sandbox: the same files and processes that the model has. For any event loop.

    Replies have the predecessor's shapes. A reply never says by an exit code that the fleet failed: look at `masked`
    before scoring.

    Args:
        task_id: the task whose sandbox it is.
        rollouts: where the tasks of this process are; None for those of its own fleet.
        root: folder of this machine that uploads and downloads may not leave; None confines nothing.
    """

    def __init__(self, task_id: str, rollouts: Rollouts | None = None, root: str | Path | None = None) -> None:
        self.task_id = task_id
        self.metrics = CallMetrics()
        """How the calls made here ended."""
        self._rollouts = rollouts
        self._root = None if root is None else Path(root)

    @property
    def masked(self) -> bool:
        """Infrastructure failed a call made here: what it would have shown is not known, so do not score."""
        return self.metrics.infrastructure > 0

    async def terminal(self, command: str, timeout: float = TERMINAL_TIMEOUT) -> Reply:
        """Run a shell command: ``output``, ``exit_code``, ``error``."""
        return await self._ask("terminal", {"command": command}, timeout)

    async def read_file(self, path: str) -> Reply:
        """Read a text file: ``content`` with numbered lines, or ``error``."""
        return await self._ask("read_file", {"path": path})

    async def write_file(self, path: str, content: str) -> Reply:
        """Write a text file: ``bytes_written``, or ``error``."""
        return await self._ask("write_file", {"path": path, "content": content})

    async def search(self, query: str, path: str = ".") -> Reply:
        """Search the contents of files for a regular expression."""
        return await self._ask("search_files", {"pattern": query, "path": path})

    async def web_search(self, query: str) -> Reply:
        """Call the external tool of that name."""
        return await self._ask("web_search", {"query": query})

    async def web_extract(self, urls: list[str]) -> Reply:
        """Call the external tool of that name."""
        return await self._ask("web_extract", {"urls": urls})

    async def browser_navigate(self, url: str) -> Reply:
        """Call the external tool of that name."""
        return await self._ask("browser_navigate", {"url": url})

    async def browser_snapshot(self) -> Reply:
        """Call the external tool of that name."""
        return await self._ask("browser_snapshot", {})

    async def upload_file(self, local_path: str, remote_path: str) -> Reply:
        """Put a file into the sandbox: ``exit_code`` 0, or -1 and why in ``output``."""
        return await self._move(lambda moves: moves.upload_file(local_path, remote_path))

    async def upload_dir(self, local_dir: str, remote_dir: str) -> list[Reply]:
        """Put a tree into the sandbox: a reply as of `upload_file` for each file."""
        return await self._move(lambda moves: moves.upload_dir(local_dir, remote_dir))

    async def download_file(self, remote_path: str, local_path: str) -> Reply:
        """Get a file out of the sandbox: ``success`` and ``bytes``, or ``error``."""
        return await self._move(lambda moves: moves.download_file(remote_path, local_path))

    async def download_dir(self, remote_dir: str, local_dir: str) -> list[Reply]:
        """Get a tree out of the sandbox: a reply as of `download_file` for each file."""
        return await self._move(lambda moves: moves.download_dir(remote_dir, local_dir))

    async def call_tool(self, tool_name: str, arguments: dict[str, Any]) -> str:
        """Call any tool; its reply as JSON text."""
        return as_json(await self._ask(tool_name, arguments))

    @asynccontextmanager
    async def verified(self) -> AsyncIterator[Self]:
        """A context over a copy of the workspace as it is now, in a sandbox of its own.

        No process of the model lives there, and what the reward does there does not reach the model's sandbox. Files
        that the model left are the model's still: a verifier brings its own tests and tools.

        Raises:
            SpecRefused: sandboxes of this backend or profile cannot be copied.
            FleetError, ForkFailed: no copy was made.
        """
        copy = await self.copy()
        try:
            yield copy
        finally:
            await copy.cleanup()

    async def copy(self) -> Self:
        """What `verified` gives, for whoever calls its `cleanup`."""
        rollouts, task_id = await self._ready(), new_id("verify")

        async def fork() -> None:
            (forked,) = await rollouts.trajectory(self.task_id).fork(1)
            rollouts.adopt(task_id, forked)

        await rollouts.bridge.carry(fork())
        return type(self)(task_id, rollouts, self._root)

    async def cleanup(self) -> CleanupReport:
        """End the task: its sandbox goes, with its processes. Idempotent."""
        return await (await self._ready()).release(self.task_id)

    async def _ready(self) -> Rollouts:
        return self._rollouts or await SHARED.aget()

    async def _ask(self, name: str, arguments: dict[str, Any], timeout: float | None = None) -> Reply:
        try:
            result = await (await self._ready()).call(self.task_id, name, arguments, timeout=timeout)
        except FleetError as error:
            self.metrics = self.metrics.plus("error", fault=Fault.INFRASTRUCTURE)
            return reply_of_error(name, error)
        except InvalidCall as error:
            self.metrics = self.metrics.plus("rejected")
            return reply_of_error(name, error)
        self.metrics = self.metrics.plus_result(result)
        return reply(result, arguments)

    async def _move(self, work: Callable[[Transfers], Coroutine[Any, Any, T]]) -> T:
        rollouts = await self._ready()

        async def run() -> tuple[T, Transfers]:
            moves = Transfers(rollouts.trajectory(self.task_id), self._root)
            return await work(moves), moves

        said, moves = await rollouts.bridge.carry(run())
        fault = Fault.INFRASTRUCTURE if moves.interrupted else Fault.NONE
        self.metrics = self.metrics.plus("error" if moves.error else "ok", fault=fault)
        return said
