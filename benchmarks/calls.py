"""What one tool call costs, side by side in one run: a bare spawn, plain Celery, toolfleet.

Usage: python benchmarks/calls.py [--rounds 5] [--calls 150] [--trajectories 64]

Every round measures each way in turn, so that a machine that changes its speed changes it for all; the table shows
medians over the rounds, and medians of the ratios round by round. Every call runs ``echo hi`` in bash. Plain Celery
runs it on the bare host, in a prefork worker with two processes; toolfleet runs it in bubblewrap sandboxes of one
worker process, which serves them all from one event loop. The toolfleet producer runs on uvloop.
"""

import asyncio
import importlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

from toolfleet.producer import Fleet, Trajectory
from toolfleet.producer.embedded import find_redis_server

COMMAND = "echo hi"
HERE = Path(__file__).parent


@dataclass
class Way:
    """One way of running the command: what each round measured."""

    name: str
    latencies_ms: list[float] = field(default_factory=list)
    """Median latency of each round."""
    rates: list[float] = field(default_factory=list)
    """Calls a second of each round."""

    def add(self, latencies: list[float], seconds: float) -> None:
        """Note a round: latencies of its calls and its length, in seconds."""
        self.latencies_ms.append(statistics.median(latencies) * 1000)
        self.rates.append(len(latencies) / seconds)


def spawn_floor(calls: int) -> list[float]:
    """Latencies of ``posix_spawn`` of the shell, its output read, and nothing else."""
    latencies = []
    for _ in range(calls):
        began = time.perf_counter()
        read, write = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)]
        pid = os.posix_spawn("/bin/bash", ["bash", "-c", COMMAND], os.environ, file_actions=actions)
        os.close(write)
        assert os.read(read, 100) == b"hi\n"
        os.close(read)
        os.waitpid(pid, 0)
        latencies.append(time.perf_counter() - began)
    return latencies


def plain_call(_: object = None) -> float:
    """Latency of one call through plain Celery, ``.get()`` included."""
    plain_celery = importlib.import_module("plain_celery")  # only now, with the URL of its Redis set

    began = time.perf_counter()
    assert plain_celery.run.delay(COMMAND).get(timeout=60, interval=0.001) == "hi\n"
    return time.perf_counter() - began


async def fleet_calls(trajectory: Trajectory, calls: int) -> list[float]:
    """Latencies of calls of one trajectory, one after another."""
    latencies = []
    for _ in range(calls):
        began = time.perf_counter()
        result = await trajectory.terminal(COMMAND)
        latencies.append(time.perf_counter() - began)
        assert result.stdout == "hi\n", result
    return latencies


@contextmanager
def redis_and_workers(slots: int) -> Iterator[str]:
    """One Redis on loopback TCP, a prefork worker with two processes for plain Celery, and a worker of toolfleet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"redis://127.0.0.1:{port}"
    os.environ["BENCH_REDIS"] = f"{url}/1"
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(
            running([str(find_redis_server()), "--port", str(port), "--save", "", "--dir", folder], HERE, {})
        )
        while not listening(port):
            time.sleep(0.01)
        celery = [sys.executable, "-m", "celery", "-A", "plain_celery", "worker", "-c", "2", "-l", "ERROR"]
        stack.enter_context(running(celery, HERE, {}))
        env = {"TOOLFLEET_REDIS_URL": f"{url}/0", "TOOLFLEET_SLOTS": str(slots)}
        stack.enter_context(running([sys.executable, "-m", "toolfleet.workers"], HERE, env))
        plain_call()
        yield f"{url}/0"


def listening(port: int) -> bool:
    """Somebody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(argv: list[str], folder: Path, env: dict[str, str]) -> Iterator[None]:
    """A process, ended and waited for."""
    null = subprocess.DEVNULL
    process = subprocess.Popen(argv, cwd=folder, env={**os.environ, **env}, stdout=null, stderr=null)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def timed(way: Way, work: Callable[[], Awaitable[list[float]]]) -> None:
    """Run ``work`` and note what it measured."""
    began = time.perf_counter()
    latencies = await work()
    way.add(latencies, time.perf_counter() - began)


async def measure(rounds: int, calls: int, trajectories: int) -> list[Way]:
    """All ways, round by round."""
    floor, plain, single = Way("posix_spawn, bare"), Way("plain Celery, 1 caller"), Way("toolfleet, 1 trajectory")
    plain_many = Way(f"plain Celery, {trajectories} callers")
    many = Way(f"toolfleet, {trajectories} trajectories")
    each = max(1, calls * 15 // trajectories)
    with redis_and_workers(trajectories) as url, ThreadPoolExecutor(trajectories) as threads:
        async with Fleet.connect(redis_url=url) as fleet:
            lines = [fleet.trajectory() for _ in range(trajectories)]
            await asyncio.gather(*(fleet_calls(line, 1) for line in lines))

            async def plain_one() -> list[float]:
                return await asyncio.to_thread(lambda: [plain_call() for _ in range(calls)])

            async def plain_all() -> list[float]:
                return await asyncio.to_thread(lambda: list(threads.map(plain_call, range(each * trajectories))))

            async def fleet_all() -> list[float]:
                found = await asyncio.gather(*(fleet_calls(line, each) for line in lines))
                return [latency for line in found for latency in line]

            for _ in range(rounds):
                await timed(floor, lambda: asyncio.to_thread(spawn_floor, calls))
                await timed(plain, plain_one)
                await timed(single, lambda: fleet_calls(lines[0], calls))
                await timed(plain_many, plain_all)
                await timed(many, fleet_all)
    return [floor, plain, single, plain_many, many]


def ratio(mine: list[float], its: list[float]) -> float:
    """Median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(mine, its, strict=True))


def table(ways: list[Way]) -> Table:
    """Medians over the rounds, and ratios to plain Celery in the same setting."""
    shown = Table(title=f"{COMMAND!r}: medians over {len(ways[0].rates)} rounds", title_justify="left")
    for column in ("", "p50 ms", "calls/s", "p50 against plain Celery", "calls/s against plain Celery"):
        shown.add_column(column, justify="left" if not column else "right")
    rivals = {2: ways[1], 4: ways[3]}
    for index, way in enumerate(ways):
        p50, rate = statistics.median(way.latencies_ms), statistics.median(way.rates)
        row = [way.name, f"{p50:.2f}", f"{rate:.0f}"]
        if rival := rivals.get(index):
            row += [f"{ratio(way.latencies_ms, rival.latencies_ms):.2f} x", f"{ratio(way.rates, rival.rates):.1f} x"]
        shown.add_row(*row)
    return shown


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--calls", default=150, show_default=True, help="Calls of one caller in a round.")
@click.option("--trajectories", default=64, show_default=True)
def main(rounds: int, calls: int, trajectories: int) -> None:
    """Measure what one tool call costs, side by side."""
    Console().print(table(uvloop.run(measure(rounds, calls, trajectories))))


if __name__ == "__main__":
    main()
