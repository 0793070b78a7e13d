"""The predecessor's ToolExecutor server: calls by trajectory."""

import uuid
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from toolfleet.producer.adapters.artifacts import (
    ArchiveAnswer,
    ListAnswer,
    ReadAnswer,
    TrajectoryArchiveRequest,
    TrajectoryListRequest,
    TrajectoryReadRequest,
)
from toolfleet.producer.adapters.atropos import ToolCall, ToolResult
from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.answers import Health, problems, tell_problems
from toolfleet.producer.fronts.guard import Guard, Limits
from toolfleet.producer.fronts.once import Once, call_id

Ident = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class Tool(ToolCall):
    """The call that a model made."""

    name: str = Field(min_length=1, max_length=200)
    uniq_id: str = Field(default_factory=lambda: str(uuid.uuid4()), max_length=1_000)


class ExecuteRequest(BaseModel):
    """Run a tool in a trajectory's sandbox."""

    trajectory_id: Ident
    tool: Tool
    timeout_s: float | None = None


class ReleaseRequest(BaseModel):
    """End a trajectory."""

    trajectory_id: Ident
    reset_workspace: bool = False


class Released(BaseModel):
    """The trajectory has ended."""

    status: Literal["ok"] = "ok"


class Status(BaseModel):
    """What the server has done, and what the fleet has."""

    queue_size: int
    total_requests: int
    total_errors: int
    pool: dict[str, Any]


def executor_app(executor: ToolExecutor, token: SecretStr | None = None, limits: Limits | None = None) -> FastAPI:
    """The server over ``executor``, which is started and closed by whoever made it."""
    app = FastAPI(title="toolfleet executor", responses=problems(401, 403, 413, 422, 429, 503))
    app.add_middleware(Guard, limits=limits or Limits(), token=token, open_paths={"/health"})
    tell_problems(app, invalid=422, not_json=422)
    once: Once[ToolResult] = Once()

    @app.get("/health")
    async def health() -> Health:
        return Health()

    @app.get("/status")
    async def status() -> Status:
        return Status(
            queue_size=executor.queue_size(),
            total_requests=executor.total_requests,
            total_errors=executor.total_errors,
            pool=await executor.backend.pool(),
        )

    @app.post("/execute")
    async def execute(request: ExecuteRequest) -> ToolResult:
        tool, ident = request.tool, request.trajectory_id
        if not _is_uuid(tool.uniq_id):
            # A model may have written it, and write the same again for another call.
            return await executor.execute(ident, tool, request.timeout_s)
        key = call_id(tool.uniq_id, tool.name, tool.arguments)
        return await once.do(f"{ident} {key}", lambda: executor.execute(ident, tool, request.timeout_s, call_id=key))

    @app.post("/release")
    async def release(request: ReleaseRequest) -> Released:
        await executor.release_trajectory(request.trajectory_id, request.reset_workspace)
        return Released()

    @app.post("/artifacts/read")
    async def read(request: TrajectoryReadRequest) -> ReadAnswer:
        return await executor.read_artifact(request)

    @app.post("/artifacts/list")
    async def list_(request: TrajectoryListRequest) -> ListAnswer:
        return await executor.list_artifacts(request)

    @app.post("/artifacts/archive")
    async def archive(request: TrajectoryArchiveRequest) -> ArchiveAnswer:
        return await executor.archive_artifacts(request)

    return app


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
