"""Runs the command line as a stranger would."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_home import Home


@pytest.fixture
def home() -> Iterator[Home]:
    """A home with a short path, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        made = Home(Path(folder))
        yield made
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(folder).encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue
