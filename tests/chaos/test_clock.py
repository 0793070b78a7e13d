"""Workers whose wall clocks are an hour ahead and an hour behind: nothing is decided by a wall clock."""

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import Popen

import pytest
from counting import counting
from fleet_processes import until_running, worker
from services import missing

from toolfleet.config.contract import Status
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet

HOUR = 3600

#: libfaketime 0.9.10 cannot wait for a time of the monotonic clock that it does not fake, as Python's sleep does.
SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds) and None\n"


@pytest.fixture(scope="module")
def preload() -> Iterator[str]:
    """The library that shifts the clock of whatever is started with it; what killed processes leave of it goes too."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        missing("faketime")
    before = shared_memory()
    yield str(found[0])
    for path in shared_memory() - before:
        path.unlink(missing_ok=True)


def shared_memory() -> set[Path]:
    """What libfaketime has in shared memory."""
    return set(Path("/dev/shm").glob("*faketime_*"))


@pytest.fixture
def run() -> Iterator[Path]:
    """The folder for sandboxes of the machine that both workers serve."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder) / "run"


@asynccontextmanager
async def two_clocks(
    settings: Settings, preload: str, run: Path, **env: str
) -> AsyncIterator[tuple[Fleet, dict[str, Popen[bytes]]]]:
    """A producer that knows the time, and two workers that do not."""
    (run.parent / "sitecustomize.py").write_text(SLEEP)
    faked = {"LD_PRELOAD": preload, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": str(run.parent)}
    env = {"TOOLFLEET_RUNTIME_DIR": str(run), **faked, **env}
    url = settings.redis_url.get_secret_value() if settings.redis_url else ""
    with (
        worker("ahead", url, "8", FAKETIME=f"+{HOUR}s", **env) as ahead,
        worker("behind", url, "8", FAKETIME=f"-{HOUR}s", **env) as behind,
    ):
        async with Fleet.connect(settings) as fleet:
            while len(await fleet.state.workers()) < 2:
                await asyncio.sleep(0.02)
            yield fleet, {"ahead": ahead, "behind": behind}


async def test_leases_calls_and_timeouts_are_as_ever(
    settings: Settings, preload: str, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        try:
            await _as_ever(settings, preload, run)
        except AssertionError:
            # Under libfaketime a thread may stand still for seconds, now and then. A worker to which that happened says
            # so: then the run shows nothing.
            if "heartbeat: a round failed" not in capfd.readouterr().err:
                raise
        else:
            return
    await _as_ever(settings, preload, run)


async def _as_ever(settings: Settings, preload: str, run: Path) -> None:
    async with two_clocks(settings, preload, run) as (fleet, _):
        async with counting(fleet) as counted:
            await counted.more()
        results = [result for line in counted.results.values() for result in line]
        assert {r.worker_id for r in results} == {"ahead", "behind"}
        spans = [span for r in results for span in r.timing.model_dump().values()]
        assert 0 <= min(spans) <= max(spans) < HOUR / 2
        for t in [fleet.trajectory() for _ in range(2)]:
            late = await t.terminal("echo began; sleep 60", timeout=1)
            assert (late.status, late.stdout, late.exit_code) == (Status.TIMEOUT, "began\n", 124)
            # Only the workers are in the wrong time: neither sandboxes nor we are.
            said = await t.terminal("date +%s; env; cat /proc/self/maps")
            assert abs(int(said.stdout.split()[0]) - time.time()) < HOUR / 2
            assert "faketime" not in said.stdout.lower()


@pytest.mark.parametrize("dies", ["ahead", "behind"])
async def test_the_other_one_goes_on_after_a_death(settings: Settings, preload: str, run: Path, dies: str) -> None:
    async with two_clocks(settings, preload, run) as (fleet, workers):
        lines = [fleet.trajectory() for _ in range(4)]
        served = {(await t.terminal("echo kept > /tmp/f")).worker_id: t for t in lines}
        t = served[dies]
        running = await until_running(fleet, t, "echo once >> /tmp/log; sleep 1; cat /tmp/log /tmp/f")
        workers[dies].send_signal(signal.SIGKILL)
        result = await running
        assert (result.status, result.stdout, result.lease_epoch) == (Status.OK, "once\nkept\n", 2)
        assert (await t.terminal("cat /tmp/f")).workspace_generation == 1


async def test_who_is_idle_is_reaped_and_who_is_busy_is_not(settings: Settings, preload: str, run: Path) -> None:
    idle_after = {"TOOLFLEET_PROFILES__DEFAULT__IDLE_TIMEOUT": "2"}
    async with two_clocks(settings, preload, run, **idle_after) as (fleet, _):
        idle, busy = [fleet.trajectory() for _ in range(2)], [fleet.trajectory() for _ in range(2)]
        await asyncio.gather(*(t.terminal("true") for t in idle))
        results = await asyncio.gather(*(t.terminal("sleep 4; echo done") for t in busy))
        assert [(r.status, r.stdout) for r in results] == [(Status.OK, "done\n")] * 2
        for t in idle:
            while await fleet.state.redis.hget(fleet.state.key("lease", t.id), "state") != b"closed":
                await asyncio.sleep(0.05)
