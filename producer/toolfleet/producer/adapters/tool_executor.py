"""The predecessor's ``ToolExecutor`` over a fleet: calls of many trajectories, each in a sandbox of its own."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, SecretStr

from toolfleet.config.errors import SettingsError, UnknownTool
from toolfleet.producer.adapters.artifacts import (
    ArchiveAnswer,
    ListAnswer,
    ReadAnswer,
    TrajectoryArchiveRequest,
    TrajectoryListRequest,
    TrajectoryReadRequest,
)
from toolfleet.producer.adapters.atropos import ToolResult
from toolfleet.producer.adapters.envelope import SHELLS, Reply, broken, refused
from toolfleet.producer.adapters.tool_backend import FleetToolBackend

log = logging.getLogger(__name__)

#: Calls whose time `ToolExecutor.latencies_s` remembers.
REMEMBERED = 10_000
#: With these a worker refuses an external tool for which it has no ToolServer.
NOBODY_RUNS_IT = frozenset({"NoToolServer", "UnknownTool"})


class ToolExecutorConfig(BaseModel):
    """The predecessor's fields. Those that a fleet has no use for are taken and change nothing."""

    model_config = ConfigDict(frozen=True)

    batch_window_ms: int = 20
    """Changes nothing: no call waits for company."""
    max_batch_size: int = 200
    """Changes nothing: what gathers on the wire does so by itself."""
    allow_network: bool = True
    """False refuses to start with a profile whose sandboxes reach a network. True grants none: the profile decides."""
    require_sandbox: bool = False
    """Changes nothing: every call runs in a sandbox."""
    require_stateful_sandbox: bool = False
    """Changes nothing: stateful tools run in the same sandbox."""
    tool_server_url: str | None = None
    """Changes nothing here: workers call the ToolServer, so it is they who must know it."""
    tool_server_token: SecretStr | None = None
    """Changes nothing here, likewise."""
    allow_background: bool = False
    """Let ``terminal`` start background processes, for environments that also give the tool ``process``."""


class Call(Protocol):
    """A call as this module's or the predecessor's ``ToolCall`` has it."""

    @property
    def name(self) -> str:
        """Name of the tool."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the model wants of it."""

    @property
    def uniq_id(self) -> str:
        """Goes back with the result."""


class ToolExecutor:
    """Runs calls as they come: those of one trajectory in order, those of different ones side by side.

    Every call ends, with a result that says in ``metadata["fault"]`` whose doing a failure was.
    """

    def __init__(self, backend: FleetToolBackend | None = None, config: ToolExecutorConfig | None = None) -> None:
        self.config = config or ToolExecutorConfig()
        self.backend = backend or FleetToolBackend()
        self.total_requests = 0
        self.total_errors = 0
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._started = False
        self._in_flight: set[asyncio.Task[Reply]] = set()

    async def start(self) -> None:
        """Connect to the fleet. Idempotent.

        Raises:
            SettingsError: the configuration forbids what the profile does.
            FleetError: the fleet cannot be reached, or did not come up.
        """
        self._check_network()
        await self.backend.start()
        self._started = True

    async def close(self, patience: float | None = None) -> None:
        """Let the calls made so far end, then release every trajectory. Idempotent; later calls are refused.

        ``patience`` are the seconds after which calls are cancelled; None waits until each has met its own deadline.
        """
        self._started = False
        try:
            if self._in_flight:
                await asyncio.wait(self._in_flight, timeout=patience)
            for late in self._in_flight:
                late.cancel()
            if self._in_flight:
                await asyncio.wait(self._in_flight)
        finally:
            await self.backend.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def queue_size(self) -> int:
        """Calls that have not ended."""
        return len(self._in_flight)

    @property
    def latencies_s(self) -> list[float]:
        """Seconds that calls took from end to end, the latest 10,000."""
        return list(self._latencies)

    async def execute(
        self, trajectory_id: str, call: Call, timeout_s: float | None = None, *, call_id: str | None = None
    ) -> ToolResult:
        """Run ``call`` in the sandbox of ``trajectory_id``, which its first call opens.

        Args:
            trajectory_id: any text; used once, for a released trajectory takes no more calls.
            call: what the model asks for.
            timeout_s: seconds it may run, cut to 1..600; None takes the argument ``timeout``, then the profile's usual.
            call_id: an id that is unique within the trajectory; again the same never runs again.

        Raises:
            RuntimeError: `start` was not called, or `close` was.
        """
        if not self._started:
            raise RuntimeError("ToolExecutor not started (call start() first)")
        began = time.monotonic()
        self.total_requests += 1
        # A task of its own: `close` waits for it, whatever becomes of the caller's wait.
        task = asyncio.create_task(self._run(trajectory_id, call, timeout_s, call_id))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        try:
            done = await task
        except Exception as error:
            # Nothing known raises here; a rollout must not end for what we did not think of.
            log.exception("call %s of trajectory %s failed", call.name, trajectory_id)
            done = broken(error)
        self._latencies.append(time.monotonic() - began)
        self.total_errors += not done.success
        return ToolResult(uniq_id=call.uniq_id, **done._asdict())

    async def release_trajectory(self, trajectory_id: str, reset_workspace: bool = False) -> None:
        """End the trajectory after the calls made so far; its sandbox is destroyed, reset asked for or not."""
        self._require_started()
        await self.backend.release_trajectory(trajectory_id)

    async def read_artifact(self, request: TrajectoryReadRequest) -> ReadAnswer:
        """One file of a trajectory that has run something."""
        self._require_started()
        return await self.backend.artifact(request.trajectory_id, "read", request, ReadAnswer)

    async def list_artifacts(self, request: TrajectoryListRequest) -> ListAnswer:
        """One folder of a trajectory that has run something."""
        self._require_started()
        return await self.backend.artifact(request.trajectory_id, "list", request, ListAnswer)

    async def archive_artifacts(self, request: TrajectoryArchiveRequest) -> ArchiveAnswer:
        """A folder of a trajectory that has run something, as an archive."""
        self._require_started()
        return await self.backend.artifact(request.trajectory_id, "archive", request, ArchiveAnswer)

    def _require_started(self) -> None:
        if not self._started:
            raise RuntimeError("ToolExecutor not started (call start() first)")

    async def _run(self, trajectory_id: str, call: Call, timeout_s: float | None, call_id: str | None) -> Reply:
        try:
            tool = self.backend.tools.get(call.name)
        except UnknownTool:
            return refused(f"Unknown tool: {call.name}")
        arguments = dict(call.arguments)
        if tool.where == "external":
            return await self._external(trajectory_id, tool.name, arguments, timeout_s, call_id)
        if tool.name in SHELLS and not self.config.allow_background and arguments.pop("background", False):
            return refused(f"{tool.name} background execution is not supported in sandbox")
        return await self.backend.run(trajectory_id, tool.name, arguments, timeout_s, call_id)

    async def _external(
        self, trajectory_id: str, name: str, arguments: Mapping[str, Any], timeout_s: float | None, call_id: str | None
    ) -> Reply:
        done = await self.backend.run(trajectory_id, name, arguments, timeout_s, call_id)
        if done.metadata.get("refusal") in NOBODY_RUNS_IT:
            return refused(f"External tool not available (ToolServer not configured): {name}")
        if done.success or done.metadata.get("fault") != "infrastructure":
            return done
        return done._replace(error=f"External tool failed: {done.error}")

    def _check_network(self) -> None:
        if self.config.allow_network:
            return
        profile = self.backend.profile
        if profile is None or profile.network not in ("none", "internal"):
            raise SettingsError(
                f"allow_network is false, and the profile {self.backend.profile_name!r} may have one; "
                "give it network = 'none' in the settings of this process and of the workers"
            )
