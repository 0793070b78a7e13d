"""A managed-sandbox server: sandboxes with ids, commands with ids."""

from typing import Annotated

from fastapi import FastAPI, Header, Path, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.answers import Health, problem, problems, tell_problems
from toolfleet.producer.fronts.guard import Guard, Limits
from toolfleet.producer.fronts.managed_models import (
    Created,
    CreateRequest,
    Exec,
    ExecRequest,
    Ident,
    Terminated,
    TerminateRequest,
)
from toolfleet.producer.fronts.managed_sandboxes import ManagedSandboxes, Refused, Unknown

IdInPath = Annotated[Ident, Path()]


def managed_app(executor: ToolExecutor, token: SecretStr | None = None, limits: Limits | None = None) -> FastAPI:
    """The server over ``executor``, which is started and closed by whoever made it."""
    app = FastAPI(title="toolfleet managed sandboxes", responses=problems(401, 403, 404, 413, 422, 429, 503))
    app.add_middleware(Guard, limits=limits or Limits(), token=token, open_paths={"/health"})
    tell_problems(app, invalid=422, not_json=422)
    sandboxes = ManagedSandboxes(executor)

    @app.exception_handler(Unknown)
    async def unknown(request: Request, error: Unknown) -> JSONResponse:
        return problem(404, str(error))

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return problem(422, str(error))

    @app.get("/health")
    async def health() -> Health:
        return Health()

    @app.post("/v1/sandboxes")
    async def create(
        request: CreateRequest, x_idempotency_key: Annotated[str | None, Header(max_length=1_000)] = None
    ) -> Created:
        return Created(id=sandboxes.create(request, x_idempotency_key).id)

    @app.post("/v1/sandboxes/{sandbox_id}/execs")
    async def execute(sandbox_id: IdInPath, request: ExecRequest) -> Exec:
        return await sandboxes.execute(sandbox_id, request)

    @app.get("/v1/sandboxes/{sandbox_id}/execs/{exec_id}")
    async def look(sandbox_id: IdInPath, exec_id: IdInPath) -> Exec:
        return await sandboxes.look(sandbox_id, exec_id)

    @app.post("/v1/sandboxes/{sandbox_id}/execs/{exec_id}/cancel")
    async def cancel(sandbox_id: IdInPath, exec_id: IdInPath) -> Exec:
        return await sandboxes.cancel(sandbox_id, exec_id)

    @app.post("/v1/sandboxes/{sandbox_id}/terminate")
    async def terminate(sandbox_id: IdInPath, request: TerminateRequest | None = None) -> Terminated:
        await sandboxes.terminate(sandbox_id)
        return Terminated(id=sandbox_id)

    return app
