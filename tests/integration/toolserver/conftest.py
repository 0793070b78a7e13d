"""A ToolServer for the tests of this folder."""

import importlib.util
from collections.abc import Iterator

import pytest
from services import missing
from tool_server_process import Server, tool_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One that runs two calls at once."""
    for module in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            missing(f"{module}: pip install '.[server]'")
    with tool_server(TOOLFLEET_TOOL_SERVER_CONCURRENCY="2") as running:
        yield running
