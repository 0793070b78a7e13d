"""A fleet under steady load for minutes: memory must be flat, and nothing may stay behind.

Usage: python -m chaos.soak [--minutes 5] [--slots 8]          (make soak MINUTES=5)

First the machine's throughput is measured, then the load is held at 80 % of it: short calls, a megabyte of output,
files, timeouts, new trajectories all the time, and one trajectory that lives from beginning to end. After a warm-up,
memory of producer, worker, the long-lived runner and Redis, and the number of Redis' keys, are sampled. A line is
fitted through each; what grows by more than its allowance fails, and so does a key, or a sandbox, that is left once
everything is closed and what expires has expired. Exit status 1 says so.
"""

import asyncio
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import uvloop
from fleet_processes import worker
from private_redis import PrivateRedis, private_redis
from rich.console import Console
from rich.table import Table

from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.local.records import Directory
from toolfleet.config.contract import Status
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet, Trajectory

MIB = 1024 * 1024
#: Share of the measured throughput at which the load is held.
LOAD = 0.8
#: Share of the run after which memory must be flat: caches are full, what expires has begun to.
WARM_UP = 0.3
#: Seconds: short, so that results, and the tombstones of closed trajectories, expire many times within a run.
TTL = 15
#: Growth that is allowed over the measured part of a run, by what is sampled. Allocators wander by a few MiB whatever
#: they serve; a leak of a KiB a call would make a hundred MiB and more of a few minutes. Keys wander with the calls of
#: the last `TTL` seconds.
ALLOWED = {"producer MiB": 8.0, "worker MiB": 8.0, "runner MiB": 2.0, "redis MiB": 8.0, "redis keys": 300.0}


@dataclass
class Series:
    """Samples of one thing: seconds, and what was measured then."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def growth(self) -> float:
        """By how much a straight line through the samples rises from the first to the last."""
        if len(set(self.times)) < 2:
            return 0.0
        slope, _ = statistics.linear_regression(self.times, self.values)
        return slope * (self.times[-1] - self.times[0])


def pss(pid: int) -> float:
    """Memory of a process in MiB, its share of what it has in common with others included."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory")


class Load:
    """Calls of every kind at a given rate, each checked."""

    def __init__(self, fleet: Fleet, slots: int) -> None:
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._fleet = fleet
        self._slots = slots
        self._rng = random.Random(1)
        self._kinds: list[tuple[Callable[[Trajectory], Awaitable[bool]], str, int]] = [
            (self._echo, "echo", 60),
            (self._files, "files", 25),
            (self._megabyte, "1 MB of output", 10),
            (self._timeout, "timeout", 1),
        ]

    async def throughput(self, seconds: float) -> float:
        """Calls a second when every slot is busy all the time."""
        began, before = time.monotonic(), self.done.total()
        stop = asyncio.Event()
        working = [asyncio.create_task(self._rollouts(stop, 0.0)) for _ in range(self._slots)]
        await asyncio.sleep(seconds)
        rate = (self.done.total() - before) / (time.monotonic() - began)
        stop.set()
        await asyncio.gather(*working)
        return rate

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Hold ``rate`` calls a second until told to stop."""
        await asyncio.gather(*(self._rollouts(stop, self._slots / rate) for _ in range(self._slots)))

    async def live_long(self, t: Trajectory, stop: asyncio.Event) -> None:
        """One trajectory that makes a call now and then, from beginning to end."""
        while not stop.is_set():
            await self._one(t)
            await asyncio.sleep(0.05)

    async def _rollouts(self, stop: asyncio.Event, period: float) -> None:
        """One trajectory after another, each of a few calls; a call begins every ``period`` seconds."""
        due = time.monotonic() + self._rng.uniform(0, period)
        while not stop.is_set():
            async with self._fleet.trajectory() as t:
                for _ in range(self._rng.randint(1, 30)):
                    await asyncio.sleep(due - time.monotonic())
                    # Who is late does not catch up: the load would be a burst then.
                    due = max(due + period, time.monotonic())
                    await self._one(t)
                    if stop.is_set():
                        return

    async def _one(self, t: Trajectory) -> None:
        kinds, weights = self._kinds, [weight for _, _, weight in self._kinds]
        call, name, _ = self._rng.choices(kinds, weights)[0]
        if not await call(t):
            self.wrong.append(name)
        self.done[name] += 1

    async def _echo(self, t: Trajectory) -> bool:
        return (await t.terminal("echo hi")).stdout == "hi\n"

    async def _files(self, t: Trajectory) -> bool:
        text = f"{self._rng.random()}\n" * 100
        written = await t.write_file("/tmp/f", text)
        return written.status is Status.OK and (await t.terminal("cat /tmp/f")).stdout == text

    async def _megabyte(self, t: Trajectory) -> bool:
        result = await t.terminal("head -c 1000000 /dev/zero | tr '\\0' x")
        return result.status is Status.OK and bool(result.stdout)

    async def _timeout(self, t: Trajectory) -> bool:
        return (await t.terminal("sleep 60", timeout=1)).status is Status.TIMEOUT


class Watch:
    """Samples everything whose growth would tell of a leak."""

    def __init__(self, server: PrivateRedis, worker_pid: int, runner_pid: int) -> None:
        self.series = {name: Series() for name in ALLOWED}
        self._server = server
        self._pids = {"producer MiB": os.getpid(), "worker MiB": worker_pid, "runner MiB": runner_pid}

    def sample(self) -> None:
        """One look at everything."""
        gc.collect()  # what is garbage is no leak
        found = {name: pss(pid) for name, pid in self._pids.items()}
        with self._server.client() as client:
            found["redis MiB"] = client.info("memory")["used_memory"] / MIB
            found["redis keys"] = float(client.dbsize())
        for name, value in found.items():
            self.series[name].times.append(time.monotonic())
            self.series[name].values.append(value)

    def table(self) -> tuple[Table, bool]:
        """What was found, and whether it is well."""
        shown = Table(title="soak", title_justify="left")
        for column in ("", "first", "last", "most", "growth", "allowed"):
            shown.add_column(column, justify="left" if not column else "right")
        well = True
        for name, series in self.series.items():
            growth = series.growth()
            fine = growth <= ALLOWED[name]
            well &= fine
            row = [series.values[0], series.values[-1], max(series.values), growth, ALLOWED[name]]
            shown.add_row(name, *(f"{value:.1f}" for value in row), style=None if fine else "red")
        return shown, well


async def soak(server: PrivateRedis, worker_pid: int, folder: Path, seconds: float, slots: int) -> bool:
    """The whole of it; whether all is well."""
    out = Console()
    backend = BubblewrapBackend(folder)
    settings = Settings(redis_url=server.url, fleet="test", heartbeat=0.2, lease_ttl=4.0, result_ttl=TTL, call_ttl=TTL)
    async with Fleet.connect(settings) as fleet:
        while not await fleet.state.workers():
            await asyncio.sleep(0.05)
        with server.client() as client:
            keys = client.dbsize()
        async with fleet.trajectory() as old:
            await old.terminal("true")
            found: Any = await fleet.state.redis.hget(fleet.state.key("lease", old.id), "sandbox_id")
            record = Directory(folder / "sandboxes" / found.decode()).read()
            assert record is not None
            assert record.runner is not None
            load = Load(fleet, slots - 1)
            full = await load.throughput(min(20.0, seconds / 5))
            rate = LOAD * full
            out.print(f"throughput {full:.0f} calls/s; holding {rate:.0f} calls/s for {seconds:.0f} s")
            watch, stop = Watch(server, worker_pid, record.runner.pid), asyncio.Event()
            before = load.done.total()
            working = [asyncio.create_task(load.run(rate, stop)), asyncio.create_task(load.live_long(old, stop))]
            await asyncio.sleep(seconds * WARM_UP)
            ends = time.monotonic() + seconds * (1 - WARM_UP)
            while time.monotonic() < ends:
                watch.sample()
                await asyncio.sleep(seconds / 100)
            held = (load.done.total() - before) / seconds
            stop.set()
            await asyncio.gather(*working)
        shown, well = watch.table()
        out.print(shown)
        out.print(f"held {held:.0f} calls/s: {dict(load.done)}; wrong: {dict(Counter(load.wrong))}")
        own = fleet.state.key("replies", fleet.producer_id)  # stays, trimmed, for as long as the producer
        return await clean(server, backend, keys + server.has(own), out) and well and not load.wrong


async def clean(server: PrivateRedis, backend: BubblewrapBackend, keys: int, out: Console) -> bool:
    """Whether nothing of calls and trajectories is left in Redis and on the machine, once it has had time to expire."""
    deadline = time.monotonic() + 4 * TTL
    with server.client() as client:
        while True:
            left, boxes = client.dbsize() - keys, len(await backend.list()) - Profile().warm
            if (left <= 0 and boxes <= 0) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        immortal = [key for key in client.scan_iter("*", count=1000) if client.ttl(key) == -1]
        if left > 0:
            out.print(f"left: {sorted(client.scan_iter('*', count=1000))[:20]}")
    out.print(f"left behind: {left} keys, {boxes} sandboxes; {len(immortal)} keys without TTL")
    return left <= 0 and boxes <= 0 and not immortal


@click.command()
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--slots", default=8, show_default=True, help="Sandboxes in use at once.")
def main(minutes: float, slots: int) -> None:
    """Hold a fleet under load, and watch its memory."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder, private_redis() as server:
        env = {"TOOLFLEET_RUNTIME_DIR": folder, "TOOLFLEET_RESULT_TTL": str(TTL), "TOOLFLEET_CALL_TTL": str(TTL)}
        with worker("w1", server.url, str(slots), **env) as process:
            well = uvloop.run(soak(server, process.pid, Path(folder), minutes * 60, slots))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
