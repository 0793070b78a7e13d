"""Workers and Flower as processes of their own, on the test's Redis."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from toolfleet.producer import Fleet, ToolResult, Trajectory

TOOLFLEET = [sys.executable, "-c", "from toolfleet.config.cli import main; main()"]


def wait_until(fact: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a fact, not for time."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            pytest.fail(f"did not come true within {seconds:g} s")
        time.sleep(0.02)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(started: subprocess.Popen[bytes]) -> None:
    """Ask a process to stop, and kill it when it does not."""
    started.terminate()
    try:
        started.wait(30)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()


@contextlib.contextmanager
def process(*arguments: str, within: Sequence[str] = (), **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """``toolfleet ARGUMENTS``, asked to stop at the end and killed when it does not.

    ``within`` is put before the command, e.g. ``nsenter`` with its options.
    """
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        everything = {**os.environ, "TOOLFLEET_RUNTIME_DIR": f"{folder}/run", **env}
        started = subprocess.Popen([*within, *TOOLFLEET, *arguments], env=everything, cwd=folder)
        try:
            yield started
        finally:
            end(started)


async def until_running(
    fleet: Fleet, t: Trajectory, command: str, timeout: float | None = None
) -> asyncio.Task[ToolResult]:
    """Start ``command`` and wait until the ledger says that it runs."""
    task: asyncio.Task[ToolResult] = asyncio.create_task(
        t.call("terminal", {"command": command}, timeout=timeout, call_id=f"{t.id}.run")
    )
    while await fleet.state.redis.hget(fleet.state.key("call", f"{t.id}.run"), "state") != b"started":
        await asyncio.sleep(0.01)
    return task


def worker(
    name: str, url: str, slots: str = "2", within: Sequence[str] = (), **env: str
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """A worker of the fleet ``test`` with the same short times as the fixture ``settings``."""
    short = {"TOOLFLEET_FLEET": "test", "TOOLFLEET_HEARTBEAT": "0.2", "TOOLFLEET_LEASE_TTL": "4"}
    return process(
        "worker", "--name", name, "--slots", slots, within=within, TOOLFLEET_REDIS_URL=url, **{**short, **env}
    )
