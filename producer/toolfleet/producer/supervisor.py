"""The process above an embedded fleet: it starts a private Redis and the workers, and ends them with its parent.

Run as ``python -m toolfleet.producer.supervisor`` with one JSON object on the first line of standard input
(see `Plan`). When standard input ends, because the parent closed it or died in whatever way, everything is stopped and
the folder removed.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
#: Seconds that a worker gets to destroy its sandboxes before it is killed.
WORKER_GRACE = 15.0
REDIS_GRACE = 5.0


@dataclass(frozen=True)
class Plan:
    """What to run: ``redis`` is the path of a redis-server; ``env`` goes to every worker."""

    folder: str
    redis: str
    workers: int
    env: dict[str, str]


class Supervisor:
    """Starts what the plan says, watches it, and takes all of it down again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._folder = Path(plan.folder)
        self._redis: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def run(self) -> int:
        """Until standard input ends or a child dies; 0 when it was asked to stop."""
        try:
            self._start_redis()
            for number in range(1, self._plan.workers + 1):
                self._start_worker(number)
            return self._watch()
        finally:
            self._stop()

    def _start_redis(self) -> None:
        sock = self._folder / "redis.sock"
        # Save nothing, open no port: this Redis lives and dies with the fleet.
        options = ["--port", "0", "--unixsocket", str(sock), "--unixsocketperm", "700", "--save", "", "--dir"]
        argv = [self._plan.redis, *options, str(self._folder), "--loglevel", "warning"]
        self._redis = self._spawn("redis", argv, dict(os.environ))
        for _ in range(500):
            if self._redis.poll() is not None:
                raise SystemExit(f"redis-server ended with {self._redis.returncode}")
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(sock))
                return
            time.sleep(0.01)
        raise SystemExit("redis-server did not open its socket within 5 s")

    def _start_worker(self, number: int) -> None:
        argv = [sys.executable, "-m", "toolfleet.workers", "--name", f"embedded-{number}"]
        # Of the settings only the plan's: a nested variable of this shell would override what the producer was told.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TOOLFLEET_")}
        self._workers.append(self._spawn(f"worker-{number}", argv, {**inherited, **self._plan.env}))

    def _spawn(self, name: str, argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,  # a Ctrl-C in the terminal must reach the parent alone, which stops us in order
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
            )

    def _watch(self) -> int:
        with selectors.DefaultSelector() as ready:
            ready.register(sys.stdin, selectors.EVENT_READ)
            while True:
                if ready.select(timeout=0.2) and not os.read(sys.stdin.fileno(), 4096):
                    return 0
                if self._redis and self._redis.poll() is not None:
                    raise SystemExit(f"redis-server ended with {self._redis.returncode}")
                # A worker killed later is the fleet's daily bread; one that ends by itself could not serve at all.
                if any((worker.poll() or 0) > 0 for worker in self._workers):
                    raise SystemExit("a worker could not serve; its log says why")

    def _stop(self) -> None:
        for worker in self._workers:
            _signal(worker, signal.SIGTERM)
        deadline = time.monotonic() + WORKER_GRACE
        for worker in self._workers:
            _end(worker, deadline - time.monotonic())
        if self._redis:
            _signal(self._redis, signal.SIGTERM)
            _end(self._redis, REDIS_GRACE)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    try:
        process.wait(max(patience, 0.1))
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def main() -> int:
    """Read the plan, and run it."""
    # The parent decides when to stop, by closing the pipe; SIGTERM and Ctrl-C sent to the group do not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            return 0
        line += byte
    plan = Plan(**json.loads(line))
    status = Supervisor(plan).run()
    # The parent may have died; after a failure it lives, and wants to read the logs first.
    shutil.rmtree(plan.folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
