"""A fleet in the place of a predecessor's pool of slots: `FleetToolBackend`."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from toolfleet.config.contract import clamp_timeout, new_id
from toolfleet.config.errors import SettingsError, ToolfleetError, TrajectoryClosed, UnknownTool
from toolfleet.config.settings import Settings, load
from toolfleet.config.tools import Catalogue, catalogue
from toolfleet.config.tools.base import POLICY_ARGUMENTS
from toolfleet.config.tools.web import WEB
from toolfleet.producer.adapters.artifacts import (
    ArchiveAnswer,
    ArchiveRequest,
    ListAnswer,
    ListRequest,
    ReadAnswer,
    ReadRequest,
    Request,
)
from toolfleet.producer.adapters.envelope import (
    LARGEST_FILE,
    SHELLS,
    Reply,
    failed,
    refused,
    released,
    reply,
    whole_file,
)
from toolfleet.producer.adapters.open_trajectories import OpenTrajectories, Released
from toolfleet.producer.adapters.slots import ExecutionResult, Slot, SlotState
from toolfleet.producer.fleet import Fleet
from toolfleet.producer.trajectory import Trajectory

A = TypeVar("A", bound=BaseModel)

#: Seconds of a call that names none, where this side does not know the profile.
USUAL_TIMEOUT = 30.0
#: Longest that a call may ask for, in seconds.
LONGEST_TIMEOUT = 600.0
#: Seconds in which an artifact must be there.
ARTIFACT_TIMEOUT = 60.0

#: Brings a file as it is, where `read_file` shows a part of it to a model.
READ = "artifact_read"
NO_SLOT = "No active slot for trajectory (run a sandbox tool first)"


class FleetToolBackend:
    """The predecessor's ``ToolBackend`` over a fleet.

    A slot stands for a trajectory, which is opened when the slot is acquired or at the first call, whichever is first.
    Releasing ends the trajectory and destroys its sandbox, whether or not a reset is asked for: the next tenant never
    sees what was left.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        profile: str = "default",
        sweep: str = "default",
        workers: int = 2,
        tools: Catalogue | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        """Make one; `start` connects it.

        Args:
            settings: read from the environment when None.
            profile: the environment that trajectories run in.
            sweep: the population that they belong to.
            workers: worker processes of an embedded fleet, which is started when no ``redis_url`` is set.
            tools: those that calls may name; None takes those that every fleet has, and those that the settings add.
            fleet: a connected one, which is not closed with this; ``settings`` and ``workers`` mean nothing then.
        """
        self.settings = fleet.settings if fleet else settings or load()
        self.tools = tools if tools is not None else _known(self.settings)
        self.profile_name = profile
        self.profile = self.settings.profiles.get(profile)
        self._sweep = sweep
        self._given = fleet
        self._fleet = fleet or Fleet.connect(self.settings, workers=workers)
        self._trajectories: OpenTrajectories | None = None

    @property
    def default_timeout_s(self) -> float:
        """Seconds of a call that names none."""
        return self.profile.default_timeout if self.profile else USUAL_TIMEOUT

    async def start(self) -> None:
        """Connect. Idempotent.

        Raises:
            FleetError: the fleet cannot be reached, or did not come up.
        """
        if self._trajectories is None:
            if self._given is None:
                await self._fleet.__aenter__()
            self._trajectories = OpenTrajectories(self._fleet, self.profile_name, self._sweep)

    async def stop(self, purge: bool = False) -> None:
        """Release every trajectory, and disconnect. Idempotent; ``purge`` changes nothing, for nothing is left."""
        trajectories, self._trajectories = self._trajectories, None
        if trajectories is not None:
            await trajectories.close()
            if self._given is None:
                await self._fleet.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- slots

    async def acquire(self, trajectory_id: str) -> Slot:
        """A slot for the trajectory: the same place however often it is asked for.

        Raises:
            TrajectoryClosed: the trajectory was released.
            FleetSaturated: none became free within ``wait_timeout``.
            FleetError: the fleet cannot serve.
        """
        try:
            trajectory = self._running.open(trajectory_id)
        except Released:
            raise TrajectoryClosed(released(trajectory_id).error) from None
        holder = await trajectory.place()
        workdir = self.profile.workdir if self.profile else ""
        slot = Slot(slot_id=trajectory_id, alloc_id=holder.worker, workspace_dir=workdir)
        slot.acquire(trajectory_id)
        return slot

    async def release(self, slot: Slot, reset_workspace: bool = False) -> None:
        """End the slot's trajectory after the calls made so far. Idempotent."""
        slot.state = SlotState.RELEASING
        await self._running.release(slot.trajectory_id or slot.slot_id)
        slot.state, slot.trajectory_id = SlotState.AVAILABLE, None

    async def execute_batch(
        self, requests: Sequence[tuple[Slot, str, Mapping[str, Any]]], timeout_s: float | None = None
    ) -> list[ExecutionResult]:
        """Run all of them, those of one slot one after another; answers stand in the order of the requests.

        One that fails leaves the others alone.
        """
        return list(await asyncio.gather(*(self._execute_one(*request, timeout_s) for request in requests)))

    async def read_artifact(
        self,
        slot: Slot,
        path: str,
        encoding: str = "text",
        max_bytes: int | None = None,
        include_sha256: bool = False,
    ) -> dict[str, Any]:
        """One file of the slot's trajectory, see `ReadAnswer`."""
        request = {"path": path, "encoding": encoding, "max_bytes": max_bytes, "include_sha256": include_sha256}
        asked = ReadRequest.model_validate(request)
        return (await self.artifact(_tenant(slot), "read", asked, ReadAnswer)).model_dump()

    async def list_artifacts(
        self, slot: Slot, path: str = ".", recursive: bool = False, max_entries: int | None = None
    ) -> dict[str, Any]:
        """One folder of the slot's trajectory, see `ListAnswer`."""
        asked = ListRequest(path=path, recursive=recursive, max_entries=max_entries)
        return (await self.artifact(_tenant(slot), "list", asked, ListAnswer)).model_dump()

    async def archive_artifacts(
        self,
        slot: Slot,
        path: str = ".",
        archive_format: str = "tar.gz",
        max_bytes: int | None = None,
        max_entries: int | None = None,
    ) -> dict[str, Any]:
        """A folder of the slot's trajectory as an archive, see `ArchiveAnswer`."""
        request = {"path": path, "format": archive_format, "max_bytes": max_bytes, "max_entries": max_entries}
        asked = ArchiveRequest.model_validate(request)
        return (await self.artifact(_tenant(slot), "archive", asked, ArchiveAnswer)).model_dump()

    # -- by trajectory: what the fronts use

    def open(self, trajectory_id: str) -> Trajectory:
        """The fleet's own trajectory behind that id, opened if need be.

        Raises:
            Released: it was released.
        """
        return self._running.open(trajectory_id)

    def holds(self, trajectory_id: str) -> bool:
        """Whether the trajectory was opened and has not ended, as far as this side knows."""
        return trajectory_id in self._running

    async def run(
        self,
        trajectory_id: str,
        name: str,
        arguments: Mapping[str, Any],
        timeout_s: float | None = None,
        call_id: str | None = None,
    ) -> Reply:
        """Run one tool; never raises for what the model or the fleet did wrong.

        ``call_id`` is unique within the trajectory: the same one again gives the same answer, without running again.
        """
        try:
            tool = self.tools.get(name).name
        except UnknownTool:
            return refused(f"Unknown tool: {name}")
        timeout = self.timeout(timeout_s, arguments)
        # Elsewhere the argument may mean something else than the time of the call, as in `process`.
        given = {key: value for key, value in arguments.items() if key != "timeout" or tool not in SHELLS}
        whole = tool == "read_file" and given.keys() - POLICY_ARGUMENTS == {"path"} and self._has(READ)
        try:
            if whole:
                asked = {"path": given["path"], "max_bytes": LARGEST_FILE}
                return whole_file(await self._running.call(trajectory_id, READ, asked, timeout, call_id))
            result = await self._running.call(trajectory_id, tool, given, timeout, call_id)
        except Released:
            return released(trajectory_id)
        except ToolfleetError as error:
            return failed(error)
        return reply(tool, given, timeout, result, self.profile)

    async def release_trajectory(self, trajectory_id: str) -> None:
        """End the trajectory after the calls made so far. Idempotent."""
        await self._running.release(trajectory_id)

    async def artifact(self, trajectory_id: str, verb: str, request: Request, answer: type[A]) -> A:
        """Ask for an artifact of a trajectory that has run something."""
        if not self.holds(trajectory_id):
            return answer(success=False, error=NO_SLOT)
        tool = f"artifact_{verb}"
        if not self._has(tool):
            return answer(success=False, error=f"Unknown tool: {tool}")
        try:
            done = await self._running.call(trajectory_id, tool, request.arguments(), ARTIFACT_TIMEOUT)
        except Released:
            return answer(success=False, error=NO_SLOT)
        except ToolfleetError as error:
            return answer(success=False, error=failed(error).error)
        if not done.ok:
            return answer(success=False, error=done.error or done.status.value)
        try:
            return answer.model_validate({"success": True, **done.detail})
        except ValidationError as error:
            return answer(success=False, error=f"Invalid artifact {verb} response: {error}")

    def timeout(self, asked: float | None, arguments: Mapping[str, Any]) -> float:
        """Seconds that a call may run: as asked, else as its argument says, else the usual; at most the longest."""
        for wanted in (asked, arguments.get("timeout")):
            with contextlib.suppress(ValueError):  # no number of seconds
                return clamp_timeout(wanted, self._longest)  # type: ignore[arg-type]  # it says so itself
        return min(self.default_timeout_s, self._longest)

    async def pool(self) -> dict[str, Any]:
        """How many slots the fleet has, and how many are taken.

        Raises:
            RedisUnavailable: it does not answer.
        """
        workers = await self._fleet.patiently(self._fleet.state.workers)
        total = sum(int(worker.get("slots", 0)) for worker in workers.values())
        used = sum(int(worker["used"]) for worker in workers.values())
        free = max(total - used, 0)  # a worker that inherits may hold more than its slots
        states = {"available": free, "acquired": used}
        return {
            "total_slots": total,
            "available_slots": free,
            "acquired_slots": used,
            "containers": len(workers),
            "slots_by_state": states,
            "started": True,
        }

    def _has(self, tool: str) -> bool:
        allowed = self.profile.tools if self.profile else None
        return any(known.name == tool for known in self.tools) and (allowed is None or tool in allowed)

    @property
    def _longest(self) -> float:
        return min(self.profile.max_timeout, LONGEST_TIMEOUT) if self.profile else LONGEST_TIMEOUT

    @property
    def _running(self) -> OpenTrajectories:
        if self._trajectories is None:
            raise SettingsError("this backend is not started; call start() first")
        return self._trajectories

    async def _execute_one(
        self, slot: Slot, name: str, arguments: Mapping[str, Any], timeout_s: float | None
    ) -> ExecutionResult:
        execution_id = new_id("exec")
        done = await self.run(_tenant(slot), name, arguments, timeout_s)
        return ExecutionResult(execution_id=execution_id, slot_id=slot.slot_id, **done._asdict())


def _known(settings: Settings) -> Catalogue:
    """All tools that workers may have. Whether there is a ToolServer to run the external ones they know better."""
    here = list(catalogue(settings))
    names = {tool.name for tool in here}
    return Catalogue([*here, *(tool for tool in WEB if tool.name not in names)])


def _tenant(slot: Slot) -> str:
    return slot.trajectory_id or slot.slot_id
