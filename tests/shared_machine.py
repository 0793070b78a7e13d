"""Workers that share a machine, and so can go on with each other's sandboxes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from subprocess import Popen

from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.config.state import FleetState

#: No warm sandboxes: those that are there belong to trajectories.
COLD = {"TOOLFLEET_PROFILES__DEFAULT__WARM": "0"}

Start = Callable[..., AbstractContextManager[Popen[bytes]]]


async def until_serving(state: FleetState, *names: str) -> None:
    """Wait until these workers, and no others, are alive."""
    while set(await state.workers()) != set(names):
        await asyncio.sleep(0.02)


async def sandboxes(run: Path) -> int:
    """How many sandboxes the host has."""
    return len(await BubblewrapBackend(run).list())


@asynccontextmanager
async def two_workers(host: Start, state: FleetState, **env: str) -> AsyncIterator[dict[str, Popen[bytes]]]:
    """Two live workers on one machine, by name."""
    with host("w1", **env) as first, host("w2", **env) as second:
        await until_serving(state, "w1", "w2")
        yield {"w1": first, "w2": second}


def other(name: str) -> str:
    """The worker that is not ``name``."""
    return {"w1": "w2", "w2": "w1"}[name]
