"""The ground of a chaos run: a Redis, workers of one host and producers, all real processes that can be hurt."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis
from fleet_processes import TOOLFLEET

from chaos.producer import Plan
from toolfleet.backends.local import records
from toolfleet.backends.local.records import Directory
from toolfleet.config import keys
from toolfleet.producer.embedded import find_redis_server

FLEET = "chaos"
TESTS = Path(__file__).parent.parent

#: Short times, so that many leases lapse within a short run.
TIMES: dict[str, Any] = {"heartbeat": 0.5, "lease_ttl": 4.0, "runner_grace": 50.0, "orphan_timeout": 3.0}


@dataclass
class Said:
    """What one producer has said so far."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    killed: bool = False
    listener: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.listener = threading.Thread(target=self.listen, daemon=True)

    def listen(self) -> None:
        """Gather its lines until it ends."""
        if self.process.stdout is None:
            raise AssertionError("a pipe was asked for")
        with self.process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # cut off by a kill
                    self.lines.append(json.loads(line))


class Ground:
    """Everything that a run starts, and all of it ended by `stop`."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.runtime_dir = folder / "run"
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.producers: list[Said] = []
        self._folder = folder
        self._slots = slots
        sock = folder / "redis.sock"
        self.url = f"unix://{sock}"
        options = [
            "--port",
            "0",
            "--unixsocket",
            str(sock),
            "--save",
            "",
            "--dir",
            str(folder),
            "--loglevel",
            "warning",
        ]
        self.redis_process = subprocess.Popen([str(find_redis_server()), *options], stdout=subprocess.DEVNULL)
        self.redis = redis.Redis.from_url(self.url, decode_responses=True)
        while not sock.exists():
            time.sleep(0.01)

    def start_worker(self, name: str) -> None:
        """Start a worker; a name that was used before is a restart."""
        env = {f"TOOLFLEET_{key.upper()}": str(value) for key, value in TIMES.items()}
        env |= {
            "TOOLFLEET_REDIS_URL": self.url,
            "TOOLFLEET_FLEET": FLEET,
            "TOOLFLEET_RUNTIME_DIR": str(self.runtime_dir),
            "TOOLFLEET_PROFILES__DEFAULT__WARM": "1",
        }
        with (self._folder / f"{name}.log").open("ab") as log:
            self.workers[name] = subprocess.Popen(
                [*TOOLFLEET, "worker", "--name", name, "--slots", str(self._slots)],
                env={**os.environ, **env},
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    def start_producer(self, plan: Plan) -> Said:
        """Start a producer and gather what it says."""
        env = {**os.environ, "PYTHONPATH": str(TESTS)}
        with (self._folder / f"{plan.prefix}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "chaos.producer"],
                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        if process.stdin is None:
            raise AssertionError("a pipe was asked for")
        process.stdin.write(json.dumps(asdict(plan)) + "\n")
        process.stdin.close()
        said = Said(process)
        said.listener.start()
        self.producers.append(said)
        return said

    # -- looking

    def healthy(self) -> list[str]:
        """Workers whose process lives and whose heartbeat Redis has."""
        seconds, micros = self.redis.time()
        now = seconds * 1000 + micros // 1000
        beating: Any = self.redis.zrangebyscore(keys.key(FLEET, "workers"), f"({now}", "+inf")
        return [name for name in beating if name in self.workers and self.workers[name].poll() is None]

    def held(self, worker: str) -> int:
        """Leases of a worker."""
        return int(self.redis.scard(keys.key(FLEET, "leases", worker)))

    def leased(self) -> dict[str, str]:
        """Sandbox id -> trajectory, of every live lease."""
        found = {}
        for name in self.workers:
            members: Any = self.redis.smembers(keys.key(FLEET, "leases", name))
            for trajectory in members:
                sandbox: Any = self.redis.hget(keys.key(FLEET, "lease", trajectory), "sandbox_id")
                if sandbox:
                    found[sandbox] = trajectory
        return found

    def sandboxes(self) -> list[Directory]:
        """The sandboxes of the host whose runner lives."""
        found = []
        for directory in records.directories(self.runtime_dir / "sandboxes"):
            record = directory.read()
            if record is not None and directory.live(record):
                found.append(directory)
        return found

    # -- the end

    def stop(self) -> None:
        """End every process, however it has been left."""
        for said in self.producers:
            said.process.kill()
            said.process.wait()
            said.listener.join()
        for process in self.workers.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.workers.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.redis.close()
        self.redis_process.send_signal(signal.SIGCONT)
        self.redis_process.terminate()
        self.redis_process.wait()


@contextlib.contextmanager
def ground(slots: int) -> Iterator[Ground]:
    """A ground in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        made = Ground(Path(folder), slots)
        try:
            yield made
        finally:
            made.stop()
