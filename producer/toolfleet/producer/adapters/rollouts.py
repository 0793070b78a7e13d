"""The trajectories of one process by the task ids of its agent loops, opened when their first call comes."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from toolfleet.config.contract import Name, Setup, ToolResult, is_identifier, new_id
from toolfleet.config.errors import FleetError, TrajectoryClosed
from toolfleet.producer.agent.metrics import CallMetrics
from toolfleet.producer.bridge import Bridge
from toolfleet.producer.fleet import Fleet
from toolfleet.producer.sync import SyncFleet
from toolfleet.producer.trajectory import Trajectory

#: The task of calls that name none.
DEFAULT_TASK = "default"


class RolloutConfig(BaseModel):
    """In which environment tasks run, and what they may call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Name = "default"
    sweep: Name = "default"
    setup: tuple[Setup, ...] = ()
    """Archives that every workspace begins with."""
    tools: frozenset[str] | None = None
    """Names of the tools that a model may call; None leaves it to the profile."""


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What the end of a task did."""

    task_id: str
    trajectory_id: str | None
    """None when the task had no sandbox."""
    closed: bool
    """It takes no more calls; its sandbox goes, with its files and processes."""
    error: str | None
    metrics: CallMetrics
    """How the model's calls ended."""


@dataclass
class Rollout:
    """One task: its environment, its trajectory once there is one, and how the model's calls ended."""

    config: RolloutConfig
    trajectory: Trajectory | None = None
    metrics: CallMetrics = field(default_factory=CallMetrics)


class Rollouts:
    """One trajectory for each task id, from its first call until `release`.

    Made over a `SyncFleet` it serves any thread and any event loop. Made over a `Fleet`, inside that fleet's event
    loop, it serves coroutines of any loop, and threads other than the loop's own.
    """

    def __init__(self, fleet: Fleet | SyncFleet, config: RolloutConfig | None = None) -> None:
        self.config = config or RolloutConfig()
        if isinstance(fleet, SyncFleet):
            self.bridge, self._fleet = fleet.bridge, fleet.inner
        else:
            self.bridge, self._fleet = Bridge(asyncio.get_running_loop()), fleet
        self._open: dict[str, Rollout] = {}

    def of(self, task_id: str) -> Rollout:
        """The rollout of ``task_id``; one that was released begins anew."""
        return self._open.setdefault(task_id, Rollout(self.config))

    def configure(self, task_id: str, **changes: Any) -> None:
        """Give ``task_id`` an environment of its own, by fields of `RolloutConfig`, before its first call.

        Raises:
            ValueError: no such field or value, or the task has its sandbox already.
        """
        config = RolloutConfig.model_validate(self.config.model_dump() | changes)
        rollout = self.of(task_id)
        if rollout.trajectory is not None:
            raise ValueError(f"task {task_id!r} has its sandbox already; configure it before its first call")
        rollout.config = config

    def trajectory(self, task_id: str) -> Trajectory:
        """The trajectory of ``task_id``, a new one if it has none. Both belong on the loop of `bridge`."""
        rollout = self.of(task_id)
        if rollout.trajectory is None:
            config = rollout.config
            rollout.trajectory = self._fleet.trajectory(
                _trajectory_id(task_id), profile=config.profile, sweep=config.sweep, setup=config.setup
            )
        return rollout.trajectory

    def adopt(self, task_id: str, trajectory: Trajectory) -> None:
        """Let the new ``task_id`` go on in ``trajectory``."""
        self._open[task_id] = Rollout(self.config, trajectory)

    async def call(self, task_id: str, name: str, arguments: Any, *, timeout: float | None = None) -> ToolResult:
        """One call in the sandbox of ``task_id``; awaited on any event loop.

        Raises:
            TrajectoryClosed: the sandbox was taken away, e.g. because it idled. The next call gets a new one.
            FleetError, InvalidCall: see `Trajectory.call`.
        """
        return await self.bridge.carry(self._call(task_id, name, arguments, timeout))

    async def release(self, task_id: str) -> CleanupReport:
        """End ``task_id``: its sandbox goes, with its processes. A later call begins anew. Idempotent."""
        return await self.bridge.carry(self._release(task_id))

    async def release_all(self) -> list[CleanupReport]:
        """End every task."""
        return [await self.release(task_id) for task_id in list(self._open)]

    async def _call(self, task_id: str, name: str, arguments: Any, timeout: float | None) -> ToolResult:
        while True:
            rollout, trajectory = self.of(task_id), self.trajectory(task_id)
            try:
                return await trajectory.call(name, arguments, timeout=timeout)
            except TrajectoryClosed:
                if rollout.trajectory is trajectory:
                    rollout.trajectory = None
                    raise
                # Another call has told of it already; this one was not made, and goes to the new trajectory.

    async def _release(self, task_id: str) -> CleanupReport:
        rollout = self._open.pop(task_id, None) or Rollout(self.config)
        trajectory, error = rollout.trajectory, None
        if trajectory is not None:
            try:
                await trajectory.close()
            except FleetError as caught:
                error = f"{type(caught).__name__}: {caught}"
        ident = trajectory.id if trajectory else None
        return CleanupReport(task_id, ident, error is None, error, rollout.metrics)


def _trajectory_id(task_id: str) -> str:
    """An id that is used once, and tells an operator whose it is where the task's name allows that."""
    named = new_id(task_id)
    return named if is_identifier(named) else new_id("t")
