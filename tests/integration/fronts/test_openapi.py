"""Whatever a client sends by the fronts' own description: an answer, in time, and never a 500."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from http_fronts import serving
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.executor import executor_app
from toolfleet.producer.fronts.managed import managed_app
from toolfleet.producer.fronts.sandbox import sandbox_app

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Requests made up for each route.
EXAMPLES = 25
#: Seconds in which any of them must be answered.
PATIENCE = 60.0

_NAMED = frozenset({"slot_id", "trajectory_id"})


def fuzz(url: str) -> set[int]:
    """Send made-up requests, that fit and that do not, to every route; the statuses of the answers."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses = set()
    for route, mode in itertools.product(
        [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)], GenerationMode
    ):
        if route.method == "get" and mode is GenerationMode.NEGATIVE:
            continue  # nothing can be wrong with it

        @given(case=route.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def send(case: schemathesis.Case[Any]) -> None:
            body: Any = case.body
            for name in _NAMED.intersection(body if isinstance(body, dict) else ()):
                if isinstance(body[name], str) and len(body[name]) % 2:
                    body[name] = "slot_0"  # or hardly any would exist
            answer = case.call(base_url=url, timeout=PATIENCE)
            assert answer.status_code != 500, answer.text
            statuses.add(answer.status_code)
            case.validate_response(answer, checks=[status_code_conformance, response_schema_conformance])

        send()
    return statuses


#: Each front, and the statuses that its answers have.
FRONTS: dict[str, tuple[Callable[[ToolExecutor], FastAPI], set[int]]] = {
    "executor": (executor_app, {200, 422}),
    "managed": (managed_app, {200, 404, 422}),
    "sandbox": (lambda executor: sandbox_app(executor, slots=2), {200, 400, 404}),
}


@pytest.mark.parametrize("contract", FRONTS)
async def test_made_up_requests_are_answered(executor: ToolExecutor, contract: str) -> None:
    make, statuses = FRONTS[contract]
    async with serving(make(executor)) as url:
        assert await asyncio.to_thread(fuzz, url) == statuses
