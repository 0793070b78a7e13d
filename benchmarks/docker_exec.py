"""What toolfleet saves where calls are run with ``docker exec`` today, side by side in one run on one engine.

Usage: python benchmarks/docker_exec.py [--image debian:bookworm-slim] [--rounds 5] [--trajectories 8] [--calls 50]

Two comparisons, each the median of the ratios of its rounds. *Calls*: every trajectory runs ``echo hi`` again and again
in a container of its own; docker-py by ``exec_run`` from a thread each, toolfleet through Redis, Celery and its runner.
*Start*: the time to the first output in a fresh environment; docker-py by ``containers.run`` with the image at hand,
toolfleet by opening a trajectory while warm containers wait. DOCKER_HOST names the engine; the image needs a shell.
"""

import asyncio
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click
import docker
import uvloop
from rich.console import Console
from rich.table import Table

from toolfleet.config.profile import Profile
from toolfleet.producer import Fleet, Trajectory

if TYPE_CHECKING:
    from docker.models.containers import Container

COMMAND = "echo hi"
#: How many times as many calls a second, and how many times as fast a start, it should be at least.
TARGETS = {"calls": 20.0, "start": 10.0}


def exec_calls(container: "Container", calls: int) -> int:
    """Calls of one container, one after another, as docker-py makes them; how many of them lost their output."""
    return sum(container.exec_run(["sh", "-c", COMMAND]).output != b"hi\n" for _ in range(calls))


async def fleet_calls(trajectory: Trajectory, calls: int) -> None:
    """Calls of one trajectory, one after another."""
    for _ in range(calls):
        result = await trajectory.terminal(COMMAND)
        assert result.stdout == "hi\n", result


async def rate(work: Any, calls: int) -> float:
    """Calls a second, of ``calls`` made by the awaitable ``work``."""
    began = time.perf_counter()
    await work
    return calls / (time.perf_counter() - began)


async def warm(fleet: Fleet, wanted: int) -> None:
    """Wait until ``wanted`` containers stand ready."""
    while True:
        workers = await fleet.state.workers()
        if sum(int(about.get("warm:default", 0)) for about in workers.values()) >= wanted:
            return
        await asyncio.sleep(0.05)


async def first_output(fleet: Fleet) -> float:
    """Seconds from nothing to the first output of a new trajectory."""
    began = time.perf_counter()
    async with fleet.trajectory() as t:
        await fleet_calls(t, 1)
        return time.perf_counter() - began


def cold_run(client: docker.DockerClient, image: str) -> float:
    """Seconds from nothing to the output of a new container."""
    began = time.perf_counter()
    container = client.containers.run(image, ["sh", "-c", COMMAND], detach=True, network_mode="none")
    container.wait()
    assert container.logs() == b"hi\n"
    took = time.perf_counter() - began
    container.remove(force=True)
    return took


async def measure(image: str, rounds: int, trajectories: int, calls: int) -> dict[str, list[tuple[float, float]]]:
    """Docker-py's and toolfleet's figure of each round, by comparison."""
    client = docker.from_env()
    found: dict[str, list[tuple[float, float]]] = {"calls": [], "start": []}
    profile = Profile(backend="docker", image=image, warm=2)
    options: dict[str, Any] = {"workers": 1, "slots": trajectories + 1, "profiles": {"default": profile}}
    containers = [
        client.containers.run(image, ["sleep", "infinity"], detach=True, network_mode="none")
        for _ in range(trajectories)
    ]
    try:
        async with Fleet.connect(**options) as fleet:
            lines = [fleet.trajectory() for _ in range(trajectories)]
            await asyncio.gather(*(fleet_calls(line, 1) for line in lines))
            with ThreadPoolExecutor(trajectories) as threads:
                loop = asyncio.get_running_loop()
                for _ in range(rounds):
                    by_exec = asyncio.gather(
                        *(loop.run_in_executor(threads, exec_calls, box, calls) for box in containers)
                    )
                    theirs = await rate(by_exec, calls * trajectories)
                    if lost := sum(by_exec.result()):
                        print(f"docker exec lost the output of {lost} calls", file=sys.stderr)
                    # More of them, for a round of each should take about as long.
                    ours = await rate(
                        asyncio.gather(*(fleet_calls(line, calls * 10) for line in lines)), calls * 10 * trajectories
                    )
                    found["calls"].append((theirs, ours))
                    await warm(fleet, 2)
                    ours = await first_output(fleet)
                    found["start"].append((await asyncio.to_thread(cold_run, client, image), ours))
            await asyncio.gather(*(line.close() for line in lines))
    finally:
        for box in containers:
            box.remove(force=True)
        client.close()
    return found


@click.command()
@click.option("--image", default="debian:bookworm-slim", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--trajectories", default=8, show_default=True)
@click.option("--calls", default=50, show_default=True, help="Calls by docker exec of each trajectory in a round.")
def main(image: str, rounds: int, trajectories: int, calls: int) -> None:
    """Measure, print a table, and fail when a target is missed."""
    found = uvloop.run(measure(image, rounds, trajectories, calls))
    table = Table("", "docker-py", "toolfleet", "ratio", "target")
    missed = False
    for name, unit, better in (("calls", "calls/s", 1), ("start", "ms", -1)):
        theirs, ours = (statistics.median(pair[side] for pair in found[name]) for side in (0, 1))
        ratio = statistics.median((pair[1] / pair[0]) ** better for pair in found[name])
        scale = 1000 if unit == "ms" else 1
        cells = (f"{theirs * scale:,.1f} {unit}", f"{ours * scale:,.1f} {unit}", f"{ratio:.1f}", f"{TARGETS[name]:g}")
        table.add_row({"calls": f"{trajectories} trajectories", "start": "first output"}[name], *cells)
        missed |= ratio < TARGETS[name]
    Console().print(table)
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
