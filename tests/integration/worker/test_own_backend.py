"""A backend that somebody else has written serves a fleet by its import path alone."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_processes import worker
from plain_backend import PlainBackend

from toolfleet.config.contract import Status
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet

pytestmark = pytest.mark.usefixtures("_plain")
TESTS = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where workers that can import the backend keep sandboxes; none is left at the end."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder)
        assert asyncio.run(PlainBackend(Path(folder)).list()) == []


async def test_an_embedded_fleet_runs_on_it(run: Path) -> None:
    """With a warm sandbox, and one for each trajectory."""
    profiles = {"default": Profile(backend=PlainBackend.name, warm=1)}
    async with (
        Fleet.connect(workers=1, slots=2, runtime_dir=run, profiles=profiles) as fleet,
        fleet.trajectory() as one,
        fleet.trajectory() as two,
    ):
        said = await one.terminal("echo hi | tee /tmp/f")
        assert (said.status, said.stdout, said.exit_code) == (Status.OK, "hi\n", 0)
        assert (await one.terminal("cat /tmp/f")).stdout == "hi\n"
        assert (await two.terminal("cat /tmp/f")).exit_code == 1


async def test_another_worker_takes_its_sandboxes_over(run: Path, settings: Settings, redis_url: str) -> None:
    """Which knows them by reference alone."""
    env = {"TOOLFLEET_PROFILES__DEFAULT__BACKEND": PlainBackend.name, "TOOLFLEET_RUNTIME_DIR": str(run)}
    with worker("w1", redis_url, **env) as first, worker("w2", redis_url, **env) as second:
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            while len(await fleet.state.workers()) < 2:
                await asyncio.sleep(0.02)
            begun = await t.terminal("echo kept > /tmp/f")
            holder = {"w1": first, "w2": second}[begun.worker_id]
            holder.send_signal(signal.SIGTERM)
            await asyncio.to_thread(holder.wait)
            after = await t.terminal("cat /tmp/f")
            assert (after.stdout, after.lease_epoch, after.workspace_generation) == ("kept\n", 2, 1)
            assert after.worker_id != begun.worker_id
