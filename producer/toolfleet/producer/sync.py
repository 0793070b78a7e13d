"""The blocking twin of `Fleet`: the same methods, from any thread, with one event loop behind them."""

import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from toolfleet.config.contract import Setup, ToolResult
from toolfleet.config.settings import Settings
from toolfleet.producer.bridge import Bridge
from toolfleet.producer.fleet import Fleet
from toolfleet.producer.trajectory import Trajectory
from toolfleet.producer.transfer import Moved
from toolfleet.producer.trees import Tree

T = TypeVar("T")


class SyncFleet:
    """``with SyncFleet.connect() as fleet``: a `Fleet` on a thread of its own. Safe to use from many threads."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._loop = uvloop.new_event_loop()
        self.bridge = Bridge(self._loop)
        """The way to the loop on which `inner` lives."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="toolfleet-sync", daemon=True)

    @classmethod
    def connect(cls, settings: Settings | None = None, *, workers: int = 2, **overrides: Any) -> Self:
        """See `Fleet.connect`."""
        return cls(Fleet.connect(settings, workers=workers, **overrides))

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait(self._fleet.__aenter__())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait(self._fleet.close())
        finally:
            self._stop_loop()

    @property
    def inner(self) -> Fleet:
        """The fleet itself, to be used on its own loop only, see `bridge`."""
        return self._fleet

    def trajectory(self, trajectory_id: str | None = None, **options: Any) -> "SyncTrajectory":
        """See `Fleet.trajectory`."""

        async def make() -> Trajectory:
            return self._fleet.trajectory(trajectory_id, **options)

        return SyncTrajectory(self, self._wait(make()))

    def archive(self, content: bytes, dest: str = "/") -> Setup:
        """See `Fleet.archive`."""
        return self._wait(self._fleet.archive(content, dest))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.bridge.wait(work)

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncTrajectory:
    """The blocking twin of `Trajectory`."""

    def __init__(self, fleet: SyncFleet, trajectory: Trajectory) -> None:
        self._fleet = fleet
        self._trajectory = trajectory
        self.id = trajectory.id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, name: str, arguments: Mapping[str, Any] | str, **options: Any) -> ToolResult:
        """See `Trajectory.call`."""
        return self._fleet._wait(self._trajectory.call(name, arguments, **options))

    def terminal(self, command: str, **options: Any) -> ToolResult:
        """See `Trajectory.terminal`."""
        return self._fleet._wait(self._trajectory.terminal(command, **options))

    def process(self, action: str, session_id: str | None = None, **options: Any) -> ToolResult:
        """See `Trajectory.process`."""
        return self._fleet._wait(self._trajectory.process(action, session_id, **options))

    def read_file(self, path: str, **options: Any) -> ToolResult:
        """See `Trajectory.read_file`."""
        return self._fleet._wait(self._trajectory.read_file(path, **options))

    def write_file(self, path: str, content: str) -> ToolResult:
        """See `Trajectory.write_file`."""
        return self._fleet._wait(self._trajectory.write_file(path, content))

    def fork(self, n: int) -> "list[SyncTrajectory]":
        """See `Trajectory.fork`."""
        return [SyncTrajectory(self._fleet, made) for made in self._fleet._wait(self._trajectory.fork(n))]

    def upload(self, local: str | Path, remote: str, **options: Any) -> Moved:
        """See `Trajectory.upload`."""
        return self._fleet._wait(self._trajectory.upload(local, remote, **options))

    def download(self, remote: str, local: str | Path, **options: Any) -> Moved:
        """See `Trajectory.download`."""
        return self._fleet._wait(self._trajectory.download(remote, local, **options))

    def upload_dir(self, local: str | Path, remote: str) -> Tree:
        """See `Trajectory.upload_dir`."""
        return self._fleet._wait(self._trajectory.upload_dir(local, remote))

    def download_dir(self, remote: str, local: str | Path, **options: Any) -> Tree:
        """See `Trajectory.download_dir`."""
        return self._fleet._wait(self._trajectory.download_dir(remote, local, **options))

    def close(self) -> None:
        """See `Trajectory.close`."""
        self._fleet._wait(self._trajectory.close())
