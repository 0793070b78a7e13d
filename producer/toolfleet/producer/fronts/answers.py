"""What all fronts have in common: health, and errors as JSON of one shape."""

from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from toolfleet.config.errors import ToolfleetError

#: Wrong fields that an answer names at most.
SHOWN = 10


class Health(BaseModel):
    """The front is there."""

    status: Literal["ok"] = "ok"


class Problem(BaseModel):
    """Why a request was not served."""

    success: Literal[False] = False
    error: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The statuses with which a `Problem` is told, for the description of a front."""
    return {status: {"model": Problem} for status in statuses}


def problem(status: int, error: str) -> JSONResponse:
    """An answer that tells a problem."""
    return JSONResponse(Problem(error=error).model_dump(), status)


def tell_problems(app: FastAPI, *, invalid: int, not_json: int) -> None:
    """Answer every error with a `Problem`.

    Args:
        app: the front.
        invalid: status for JSON that does not fit.
        not_json: status for what is no JSON.
    """

    @app.exception_handler(RequestValidationError)
    async def misfit(request: Request, error: RequestValidationError) -> JSONResponse:
        # The input itself is left out: it may be huge, or hold what no answer can.
        wrong = error.errors()
        if any(e["type"] == "json_invalid" for e in wrong):
            return problem(not_json, "Invalid JSON")
        said = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))[:100]}: {e['msg'][:200]}" for e in wrong[:SHOWN])
        return problem(invalid, said.encode("utf-8", "replace").decode())

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # a body that has not even characters; no route says so by itself
            return problem(not_json, "Invalid JSON")
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(ToolfleetError)
    async def unavailable(request: Request, error: ToolfleetError) -> JSONResponse:
        return problem(503, str(error))
