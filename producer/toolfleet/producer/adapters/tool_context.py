"""``ToolContext``: the blocking twin of `AsyncToolContext`, as reward functions know it."""

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from toolfleet.producer.adapters.async_tool_context import TERMINAL_TIMEOUT, AsyncToolContext
from toolfleet.producer.adapters.rollouts import CleanupReport, Rollouts
from toolfleet.producer.adapters.shapes import Reply
from toolfleet.producer.adapters.shared import SHARED
from toolfleet.producer.agent import CallMetrics

T = TypeVar("T")


class ToolContext:
    """Every tool of a task's sandbox, for code that does not await.

    It may be called from any thread, also from one whose event loop runs: that loop stands still meanwhile, so code
    that shares a loop with other rollouts does better with `AsyncToolContext`. Over a `Fleet` of that same loop it
    would wait for itself, and raises RuntimeError instead.

    Arguments are those of `AsyncToolContext`.
    """

    def __init__(self, task_id: str, rollouts: Rollouts | None = None, root: str | Path | None = None) -> None:
        self._rollouts = rollouts
        self._twin = AsyncToolContext(task_id, rollouts, root)

    @property
    def task_id(self) -> str:
        """The task whose sandbox it is."""
        return self._twin.task_id

    @property
    def metrics(self) -> CallMetrics:
        """See `AsyncToolContext.metrics`."""
        return self._twin.metrics

    @property
    def masked(self) -> bool:
        """See `AsyncToolContext.masked`."""
        return self._twin.masked

    def terminal(self, command: str, timeout: float = TERMINAL_TIMEOUT) -> Reply:
        """See `AsyncToolContext.terminal`."""
        return self._wait(self._twin.terminal(command, timeout))

    def read_file(self, path: str) -> Reply:
        """See `AsyncToolContext.read_file`."""
        return self._wait(self._twin.read_file(path))

    def write_file(self, path: str, content: str) -> Reply:
        """See `AsyncToolContext.write_file`."""
        return self._wait(self._twin.write_file(path, content))

    def search(self, query: str, path: str = ".") -> Reply:
        """See `AsyncToolContext.search`."""
        return self._wait(self._twin.search(query, path))

    def web_search(self, query: str) -> Reply:
        """See `AsyncToolContext.web_search`."""
        return self._wait(self._twin.web_search(query))

    def web_extract(self, urls: list[str]) -> Reply:
        """See `AsyncToolContext.web_extract`."""
        return self._wait(self._twin.web_extract(urls))

    def browser_navigate(self, url: str) -> Reply:
        """See `AsyncToolContext.browser_navigate`."""
        return self._wait(self._twin.browser_navigate(url))

    def browser_snapshot(self) -> Reply:
        """See `AsyncToolContext.browser_snapshot`."""
        return self._wait(self._twin.browser_snapshot())

    def upload_file(self, local_path: str, remote_path: str) -> Reply:
        """See `AsyncToolContext.upload_file`."""
        return self._wait(self._twin.upload_file(local_path, remote_path))

    def upload_dir(self, local_dir: str, remote_dir: str) -> list[Reply]:
        """See `AsyncToolContext.upload_dir`."""
        return self._wait(self._twin.upload_dir(local_dir, remote_dir))

    def download_file(self, remote_path: str, local_path: str) -> Reply:
        """See `AsyncToolContext.download_file`."""
        return self._wait(self._twin.download_file(remote_path, local_path))

    def download_dir(self, remote_dir: str, local_dir: str) -> list[Reply]:
        """See `AsyncToolContext.download_dir`."""
        return self._wait(self._twin.download_dir(remote_dir, local_dir))

    def call_tool(self, tool_name: str, arguments: dict[str, Any]) -> str:
        """See `AsyncToolContext.call_tool`."""
        return self._wait(self._twin.call_tool(tool_name, arguments))

    @contextmanager
    def verified(self) -> Iterator[Self]:
        """See `AsyncToolContext.verified`."""
        copy = type(self).__new__(type(self))
        copy._rollouts, copy._twin = self._rollouts, self._wait(self._twin.copy())
        try:
            yield copy
        finally:
            copy.cleanup()

    def cleanup(self) -> CleanupReport:
        """See `AsyncToolContext.cleanup`."""
        return self._wait(self._twin.cleanup())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            rollouts = self._rollouts or SHARED.get()
        except BaseException:
            work.close()
            raise
        return rollouts.bridge.wait(work)
