"""Workers as processes of their own on one machine."""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import pytest
from fleet_processes import worker
from shared_machine import Start


@pytest.fixture
def run() -> Iterator[Path]:
    """The folder for sandboxes of a machine; a unix socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder) / "run"


@pytest.fixture
def host(redis_url: str, run: Path) -> Start:
    """Starts workers that share a machine."""

    def start(name: str, **env: str) -> AbstractContextManager[Popen[bytes]]:
        return worker(name, redis_url, "4", **{"TOOLFLEET_RUNTIME_DIR": str(run), **env})

    return start
