"""``toolfleet run`` and ``toolfleet status``."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TextIO

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from toolfleet.config import connection
from toolfleet.config.errors import SettingsError, ToolfleetError
from toolfleet.config.settings import Settings, load
from toolfleet.config.state import FleetState
from toolfleet.producer.fleet import Fleet
from toolfleet.producer.replay import Line, Played, Replay, read_lines, write_to
from toolfleet.producer.summary import Summary

#: Exit statuses of ``toolfleet run``, the worst that applies.
INFRASTRUCTURE_FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
#: Exit status of ``toolfleet status --here`` where no worker lives.
NOBODY_HERE = 1


@click.command()
@click.argument("source", metavar="FILE.jsonl", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Results, one a line.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Embedded worker processes.")
@click.option("--slots", type=click.IntRange(1, 10_000), help="Sandboxes a worker serves at once.")
@click.option("--profile", default="default", show_default=True, help="Environment that the trajectories run in.")
@click.option(
    "--concurrency", type=click.IntRange(1, 100_000), help="Trajectories open at once [default: all slots of the fleet]"
)
def run(source: Path, out: Path, workers: int, slots: int | None, profile: str, concurrency: int | None) -> None:
    """Run the trajectories of FILE.jsonl and write one result a line.

    Without TOOLFLEET_REDIS_URL a private Redis and the workers are started for the run, and nothing is left of them.

    \b
    A line of the input: {"trajectory_id": "t1", "calls": [{"name": "terminal", "arguments": {"command": "ls"}}],
                          "setup": {"archive": "files.tar.gz", "dest": "/"}}      (setup: a path beside the file)
    A line of the output: trajectory_id, call_index (from 0), then status, fault, exit_code, stdout ... of the call.

    \b
    Exit status: 0 every call ran, however its command ended · 1 infrastructure failed a call · 2 a line of the input
    or the configuration is wrong (the other lines ran) · 130 Ctrl-C · 143 SIGTERM.

    \b
    Examples:
      toolfleet run calls.jsonl --out results.jsonl
      toolfleet run calls.jsonl --out results.jsonl --workers 4 --slots 16
      TOOLFLEET_REDIS_URL=redis://fleet:6379 toolfleet run calls.jsonl --out results.jsonl --concurrency 500
    """
    settings = load(slots=slots)
    if not settings.redis_url:
        settings.profile(profile)  # our own workers serve what we have: a wrong name is best told before they start
    try:
        with out.open("w", encoding="utf-8") as results:
            status = _run_until_signal(_run(settings, source, results, workers, profile, concurrency))
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror or error}") from None
    sys.exit(status)


@click.command()
@click.option("--here", is_flag=True, help="Only workers of this host; exit status 1 when none of them lives.")
def status(here: bool) -> None:
    """Show who serves the fleet of TOOLFLEET_REDIS_URL, and who waits."""
    settings = load()
    if settings.redis_url is None:
        raise SettingsError("which fleet? Set TOOLFLEET_REDIS_URL, e.g. redis://localhost:6379/0")
    served = asyncio.run(_status(settings, settings.redis_url.get_secret_value(), here=here))
    sys.exit(0 if served or not here else NOBODY_HERE)


async def _run(
    settings: Settings, source: Path, results: TextIO, workers: int, profile: str, concurrency: int | None
) -> int:
    console = Console(stderr=True)
    summary = Summary()
    total = sum(len(line.trajectory.calls) for line in read_lines(source) if line.trajectory)
    began = time.monotonic()
    async with Fleet.connect(settings, workers=workers) as fleet:
        before = await fleet.state.workers()
        at_once = concurrency or sum(int(w.get("slots", 1)) for w in before.values()) or 1
        with _progress(console, total) as advance:
            write = write_to(results)

            def played(one: Played) -> None:
                write(one)
                summary.add(one)
                advance()

            def problem(line: Line) -> None:
                summary.problems.append(line)
                console.print(f"{source}:{line.number}: {line.problem}", style="red", markup=False, highlight=False)

            try:
                await Replay(fleet, source, profile, at_once, played, problem).play()
            finally:
                seconds = time.monotonic() - began
                with contextlib.suppress(ToolfleetError, *connection.OUTAGES):
                    await asyncio.sleep(0)
                    summary.warm_hits, summary.cold_starts = await _starts(fleet, before)
    Console().print(summary.table(seconds))
    if summary.infrastructure_failed:
        return INFRASTRUCTURE_FAILED
    return BAD_INPUT if summary.problems else 0


async def _starts(fleet: Fleet, before: dict[str, dict[str, str]]) -> tuple[int, int]:
    """Warm hits and cold starts since ``before``, as of the workers' next heartbeat."""
    await asyncio.sleep(fleet.settings.heartbeat * 1.2)
    after = await fleet.state.workers()

    def grown(name: str) -> int:
        return sum(int(w.get(name, 0)) - int(before.get(i, {}).get(name, 0)) for i, w in after.items())

    return grown("warm_hits"), grown("cold_starts")


async def _status(settings: Settings, url: str, *, here: bool) -> bool:
    """Print the table; whether it has a worker."""
    redis = connection.client(url)
    try:
        await connection.check(redis, url)
        state = FleetState(redis, settings)
        workers = await state.workers()
        served = {field.removeprefix("serves:") for w in workers.values() for field in w if field.startswith("serves:")}
        waiting = await state.waiting(served | set(settings.profiles))
    finally:
        await redis.aclose()
    if here:
        workers = {name: w for name, w in workers.items() if w.get("host") == socket.gethostname()}
    table = Table(title=f"fleet {settings.fleet}: {len(workers)} workers, {waiting} trajectories waiting")
    for column in ("worker", "host", "pid", "slots", "calls", "warm hits", "cold starts", "serves", "state"):
        table.add_column(column)
    for name, w in sorted(workers.items()):
        warm = {field.removeprefix("warm:"): n for field, n in w.items() if field.startswith("warm:")}
        serves = ", ".join(f"{profile} ({n} warm)" for profile, n in sorted(warm.items()))
        slots = f"{w['used']}/{w.get('slots', '?')}"
        state_word = "accepting" if w.get("accepting") == "1" else "draining"
        facts = (w.get(key, "?") for key in ("calls", "warm_hits", "cold_starts"))
        table.add_row(name, w.get("host"), w.get("pid"), slots, *facts, serves, state_word)
    Console().print(table)
    return bool(workers)


def _run_until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Run ``work``; Ctrl-C and SIGTERM cancel it, and its clean-up still runs."""
    received: list[int] = []

    async def guarded() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int) -> None:
            if not received and task is not None:
                task.cancel()
            received.append(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        return await work

    try:
        return uvloop.run(guarded())
    except asyncio.CancelledError:
        click.echo("stopped; what ended before stands in the output", err=True)
        return INTERRUPTED if received and received[0] == signal.SIGINT else TERMINATED


@contextlib.contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, a plain line for every tenth elsewhere; yields what to call after each call."""
    if console.is_terminal:
        columns = (TextColumn("calls"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("calls", total=total)
            yield lambda: bar.advance(task)
        return
    done, step = 0, max(1, total // 10)

    def advance() -> None:
        nonlocal done
        done += 1
        if done % step == 0 or done == total:
            print(f"{done}/{total} calls", file=sys.stderr, flush=True)

    yield advance
