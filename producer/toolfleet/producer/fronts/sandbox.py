"""The predecessor's sandbox server: tools and artifacts by slot."""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from toolfleet.producer.adapters.artifacts import ArchiveAnswer, ListAnswer, ReadAnswer
from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.answers import problem, problems, tell_problems
from toolfleet.producer.fronts.guard import Guard, Limits
from toolfleet.producer.fronts.sandbox_models import (
    Batch,
    ExecuteRequest,
    Execution,
    OfSlot,
    SandboxHealth,
    SlotArchiveRequest,
    SlotListRequest,
    SlotReadRequest,
    Slots,
    WasReset,
)
from toolfleet.producer.fronts.slot_table import SlotTable, UnknownSlot


def sandbox_app(
    executor: ToolExecutor, slots: int, token: SecretStr | None = None, limits: Limits | None = None
) -> FastAPI:
    """The server of ``slots`` slots over ``executor``, which is started and closed by whoever made it."""
    app = FastAPI(title="toolfleet sandbox server", responses=problems(400, 401, 403, 404, 413, 429, 503))
    app.add_middleware(Guard, limits=limits or Limits(), token=token, open_paths={"/health"})
    tell_problems(app, invalid=400, not_json=400)
    table = SlotTable(executor, slots)

    @app.exception_handler(UnknownSlot)
    async def unknown(request: Request, error: UnknownSlot) -> JSONResponse:
        return problem(404, f"Unknown slot: {error}")

    @app.get("/health")
    async def health() -> SandboxHealth:
        return table.health()

    @app.get("/slots")
    async def all_slots() -> Slots:
        return table.status()

    @app.post("/execute")
    async def execute(request: ExecuteRequest) -> Execution:
        return await table.execute(request)

    @app.post("/batch")
    async def batch(requests: Batch) -> list[Execution]:
        return list(await asyncio.gather(*map(table.execute, requests)))

    @app.post("/reset")
    async def reset(request: OfSlot) -> WasReset:
        await table.reset(request.slot_id)
        return WasReset(slot_id=request.slot_id)

    _add_artifacts(app, executor, table)
    return app


def _add_artifacts(app: FastAPI, executor: ToolExecutor, table: SlotTable) -> None:
    artifact = executor.backend.artifact

    @app.post("/artifacts/read", response_model=ReadAnswer)
    async def read(request: SlotReadRequest) -> JSONResponse:
        return _told(await artifact(table.get(request.slot_id).trajectory_id, "read", request, ReadAnswer))

    @app.post("/artifacts/list", response_model=ListAnswer)
    async def list_(request: SlotListRequest) -> JSONResponse:
        return _told(await artifact(table.get(request.slot_id).trajectory_id, "list", request, ListAnswer))

    @app.post("/artifacts/archive", response_model=ArchiveAnswer)
    async def archive(request: SlotArchiveRequest) -> JSONResponse:
        return _told(await artifact(table.get(request.slot_id).trajectory_id, "archive", request, ArchiveAnswer))


#: Beginnings of errors to which the predecessor gave a status of their own.
_STATUSES = {"Access denied": 403, "Archive too large": 413}


def _told(answer: ReadAnswer | ListAnswer | ArchiveAnswer) -> JSONResponse:
    status = next((status for start, status in _STATUSES.items() if answer.error.startswith(start)), 200)
    return JSONResponse(answer.model_dump(mode="json"), status)
