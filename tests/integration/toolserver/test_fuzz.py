"""Whatever is sent to a ToolServer, it answers as its OpenAPI document says, and lives."""

import importlib.util
from typing import Any

from services import missing
from tool_server_process import Server


def test_no_request_that_can_be_thought_up_breaks_it(server: Server) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        missing("schemathesis: pip install '.[dev]'")
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    headers = {"Authorization": f"Bearer {server.token}"}
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations: list[Any] = [result.ok() for result in schema.get_all_operations() if hasattr(result, "ok")]
    assert {(operation.method.upper(), operation.path) for operation in operations} == {
        ("GET", "/"), ("GET", "/health"), ("GET", "/tools"), ("POST", "/execute"), ("POST", "/release")
    }  # fmt: skip
    modes = list(schemathesis.GenerationMode)
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations for mode in modes])

    @settings(
        max_examples=200, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(case=cases)
    def fuzz(case: Any) -> None:
        case.call_and_validate(headers=headers, timeout=30)

    fuzz()
    assert server.process.poll() is None
