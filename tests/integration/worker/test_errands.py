"""Calls outside the sandbox through real workers: order, gate, deadline, cancellation, deaths; and no sandbox."""

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import Popen

import pytest
from fleet_processes import free_port, wait_until, worker
from tool_server_process import TESTS, Server, tool_server

from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.config.contract import Fault, Status
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet, ToolResult, Trajectory

#: No warm sandboxes, so that those there are belong to trajectories; few and short retries.
ENV = {
    "PYTHONPATH": str(TESTS),
    "TOOLFLEET_TOOLS": '["own_tools"]',
    "TOOLFLEET_PROFILES__DEFAULT__WARM": "0",
    "TOOLFLEET_RETRIES__MAX": "2",
    "TOOLFLEET_RETRIES__BASE": "0.05",
    "TOOLFLEET_RETRIES__JITTER": "0",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A ToolServer for the whole module."""
    with tool_server() as running:
        yield running


@pytest.fixture
def run() -> Iterator[Path]:
    """The folder for sandboxes of a machine; a unix socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder) / "run"


def reaches(server: Server) -> dict[str, str]:
    """Variables of a worker that finds the ToolServer."""
    return {"TOOLFLEET_TOOL_SERVER_URL": server.url, "TOOLFLEET_TOOL_SERVER_TOKEN": server.token}


@asynccontextmanager
async def one_worker(settings: Settings, state: FleetState, **env: str) -> AsyncIterator[tuple[Fleet, Popen[bytes]]]:
    """A fleet with a worker, on the test's Redis."""
    url = settings.redis_url.get_secret_value() if settings.redis_url else ""
    with worker("w1", url, **{**ENV, **env}) as process:
        while not await state.workers():
            assert process.poll() is None
            await asyncio.sleep(0.02)
        async with Fleet.connect(settings) as fleet:
            yield fleet, process


async def until(path: Path, text: str) -> None:
    """Wait until a file holds that text."""
    await asyncio.to_thread(wait_until, lambda: path.exists() and path.read_text() == text)


def held(t: Trajectory, folder: Path, name: str = "hold", timeout: float | None = None) -> "asyncio.Task[ToolResult]":
    """A call that says in ``runs`` that it runs, and goes on until there is ``go``."""
    arguments = {"path": str(folder / "runs"), "until": str(folder / "go")}
    return asyncio.create_task(t.call(name, arguments, timeout=timeout, call_id=f"{t.id}.held"))


async def test_tools_of_users_run_where_they_say(settings: Settings, state: FleetState, server: Server) -> None:
    async with one_worker(settings, state, **reaches(server)) as (fleet, _), fleet.trajectory("t1") as t:
        who = await t.call("whoami", {}, call_id="c1")
        assert json.loads(who.output) == {"trajectory": "t1", "call": "c1", "seconds": True}
        assert (await t.call("add", '{"a": 1}')).output == "2"
        assert json.loads((await t.call("look_up", {"query": "x"})).output)["task"] == "t1"
        await t.write_file("/tmp/words", "a b a\n")
        counted = await t.call("count_words", {"path": "/tmp/words", "at_least": 2})
        assert (counted.output, counted.exit_code) == ('{"a": 2}', 0)
        assert counted.stderr == "chatter of a child\nchatter\n" or counted.stderr == "chatter\nchatter of a child\n"
        failed = await t.call("count_words", {"path": "/tmp/none"})
        assert (failed.status, failed.exit_code) == (Status.OK, 1)
        assert "FileNotFoundError" in failed.output
        odd = "ü'\"\\\n\u2028$(id)"
        assert (await t.call("echo", {"text": odd * 900})).output == odd * 900
        assert (await t.call("echo", {"text": odd * 12_000})).stdout.startswith(odd * 100)
        refused = await t.call("echo", {"text": odd * 50_000})
        assert (refused.status, refused.executed) == (Status.REJECTED, "no")
        assert "at most 400000 bytes" in str(refused.error)
        await t.write_file("/tmp/one", "1")
        await t.write_file("/tmp/two", "2")
        assert (await t.call("swap", {"first": "/tmp/one", "second": "/tmp/two"})).output == "swapped '1' and '2'"
        assert (await t.terminal("cat /tmp/one /tmp/two")).output == "21"


async def test_a_call_outside_makes_no_sandbox_and_uses_no_workspace(
    settings: Settings, state: FleetState, run: Path
) -> None:
    env = {"TOOLFLEET_RUNTIME_DIR": str(run)}
    async with one_worker(settings, state, **env) as (fleet, _), fleet.trajectory("t1") as t:
        assert (await t.call("add", {"a": 1})).ok
        assert await BubblewrapBackend(run).list() == []
        assert (await state.redis.hget(state.key("lease", "t1"), "used")) == b"0"
        r = await t.terminal("true")
        assert (r.ok, r.workspace_generation) == (True, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"why": "too dark"}, "ValueError: too dark"), ({"why": "too dark", "politely": True}, "too dark")],
)
async def test_a_tools_own_failure_is_the_models_to_read(
    settings: Settings, state: FleetState, arguments: dict[str, object], says: str
) -> None:
    async with one_worker(settings, state) as (fleet, _), fleet.trajectory() as t:
        r = await t.call("fail", arguments)
    assert (r.status, r.fault, r.exit_code, r.output, r.error) == (Status.OK, Fault.NONE, 1, says, says)


async def test_a_model_cannot_say_who_it_is(settings: Settings, state: FleetState) -> None:
    async with one_worker(settings, state) as (fleet, _), fleet.trajectory() as t:
        r = await t.call("whoami", {"trajectory_id": "another"})
    assert (r.status, r.executed) == (Status.REJECTED, "no")
    assert "trajectory_id: Extra inputs" in str(r.error)


@pytest.mark.parametrize("name", ["hold", "wait"])
async def test_calls_keep_the_order_of_their_trajectory(
    settings: Settings, state: FleetState, server: Server, tmp_path: Path, name: str
) -> None:
    async with one_worker(settings, state, **reaches(server)) as (fleet, _), fleet.trajectory("t1") as t:
        first = held(t, tmp_path, name)
        await until(tmp_path / "runs", "x")
        second = asyncio.create_task(t.call("add", {"a": 1}))
        beside = await t.call("add", {"a": 2}, parallel=True)
        assert beside.output == "3"
        assert not second.done()
        (tmp_path / "go").touch()
        assert (await first).ok
        assert (await second).output == "2"


@pytest.mark.parametrize("name", ["hold", "wait"])
async def test_a_deadline_holds_outside_as_well(
    settings: Settings, state: FleetState, server: Server, tmp_path: Path, name: str
) -> None:
    async with one_worker(settings, state, **reaches(server)) as (fleet, _), fleet.trajectory("t1") as t:
        r = await held(t, tmp_path, name, timeout=1.0)
        (tmp_path / "go").touch()
        assert (r.status, r.fault, r.executed, r.exit_code) == (Status.TIMEOUT, Fault.POLICY, "yes", 124)
        assert (await t.call("add", {"a": 1})).ok


@pytest.mark.parametrize("name", ["hold", "wait"])
async def test_cancelling_a_call_stops_it(
    settings: Settings, state: FleetState, server: Server, tmp_path: Path, name: str
) -> None:
    async with one_worker(settings, state, **reaches(server)) as (fleet, _), fleet.trajectory("t1") as t:
        running = held(t, tmp_path, name)
        await until(tmp_path / "runs", "x")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        if name == "wait":
            await until(tmp_path / "runs", "xstopped")
        assert (await t.call("add", {"a": 1})).output == "2"
        (tmp_path / "go").touch()


@pytest.mark.parametrize("sandbox", [False, True], ids=["without a sandbox", "with a sandbox to inherit"])
async def test_a_worker_that_dies_leaves_it_unknown_and_loses_nothing(
    settings: Settings, state: FleetState, redis_url: str, tmp_path: Path, run: Path, sandbox: bool
) -> None:
    env = {**ENV, "TOOLFLEET_RUNTIME_DIR": str(run)}
    with worker("w1", redis_url, **env) as one, worker("w2", redis_url, **env) as two:
        while len(await state.workers()) < 2:
            await asyncio.sleep(0.02)
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            if sandbox:
                await t.terminal("echo kept > /tmp/f")
            running = held(t, tmp_path)
            await until(tmp_path / "runs", "x")
            holder = await state.redis.hget(state.key("lease", "t1"), "worker")
            (one if holder == b"w1" else two).send_signal(signal.SIGKILL)
            r = await running
            assert (r.status, r.fault, r.executed) == (Status.UNKNOWN, Fault.INFRASTRUCTURE, "unknown")
            after = await t.terminal("cat /tmp/f; true")
            assert (after.status, after.workspace_generation) == (Status.OK, 1)
            assert after.stdout == ("kept\n" if sandbox else "")
    assert (tmp_path / "runs").read_text() == "x", "it ran once"


async def test_a_worker_that_was_only_paused_stops_what_is_not_its_own_any_more(
    settings: Settings, state: FleetState, redis_url: str, server: Server, tmp_path: Path
) -> None:
    env = {**ENV, **reaches(server)}
    with worker("w1", redis_url, **env) as one, worker("w2", redis_url, **env) as two:
        while len(await state.workers()) < 2:
            await asyncio.sleep(0.02)
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            running = held(t, tmp_path, "wait", timeout=600.0)
            await until(tmp_path / "runs", "x")
            paused = one if await state.redis.hget(state.key("lease", "t1"), "worker") == b"w1" else two
            paused.send_signal(signal.SIGSTOP)
            r = await running
            assert (r.status, r.executed) == (Status.UNKNOWN, "unknown")
            assert (await t.call("add", {"a": 1})).output == "2"
            paused.send_signal(signal.SIGCONT)
            await until(tmp_path / "runs", "xstopped")


async def test_a_worker_that_stops_does_not_wait_for_it_beyond_its_patience(
    settings: Settings, state: FleetState, tmp_path: Path
) -> None:
    async with one_worker(settings, state, TOOLFLEET_DRAIN_TIMEOUT="0.5") as (fleet, process):
        t = fleet.trajectory("t1")
        running = held(t, tmp_path)
        await until(tmp_path / "runs", "x")
        process.terminate()
        r = await running
        assert (r.status, r.fault, r.executed) == (Status.UNKNOWN, Fault.INFRASTRUCTURE, "unknown")
        assert await asyncio.to_thread(process.wait, 30) == 0, "a thread that blocks kept it from ending"


async def test_a_server_that_is_killed_in_mid_call_may_have_run_it(
    settings: Settings, state: FleetState, tmp_path: Path
) -> None:
    with tool_server() as doomed:
        async with one_worker(settings, state, **reaches(doomed)) as (fleet, _), fleet.trajectory("t1") as t:
            running = held(t, tmp_path, "wait")
            await until(tmp_path / "runs", "x")
            doomed.process.kill()
            r = await running
            assert (r.status, r.fault, r.executed, r.attempts) == (Status.UNKNOWN, Fault.INFRASTRUCTURE, "unknown", 1)
            gone = await t.call("look_up", {"query": "x"})
            assert (gone.status, gone.fault, gone.executed) == (Status.FAILED, Fault.INFRASTRUCTURE, "no")
            assert gone.attempts == 3
            assert "cannot be reached" in str(gone.error)


async def test_a_server_that_comes_up_late_is_waited_for(settings: Settings, state: FleetState) -> None:
    port = free_port()
    env = {"TOOLFLEET_TOOL_SERVER_URL": f"http://127.0.0.1:{port}", "TOOLFLEET_RETRIES__MAX": "20"}
    async with one_worker(settings, state, **env) as (fleet, _), fleet.trajectory("t1") as t:
        call = asyncio.create_task(t.call("look_up", {"query": "x"}, call_id="early", timeout=60))
        while await state.redis.hget(state.key("call", "early"), "state") != b"started":
            await asyncio.sleep(0.01)
        with tool_server(token="", port=port):
            r = await call
    assert r.ok
    assert r.attempts > 1


async def test_a_wrong_token_is_the_infrastructures_fault_and_shown_nowhere(
    settings: Settings, state: FleetState, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    env = {"TOOLFLEET_TOOL_SERVER_URL": server.url, "TOOLFLEET_TOOL_SERVER_TOKEN": "wrong-s3cret"}
    async with one_worker(settings, state, **env) as (fleet, _), fleet.trajectory("t1") as t:
        r = await t.call("look_up", {"query": "x"})
    assert (r.status, r.fault, r.executed, r.attempts) == (Status.FAILED, Fault.INFRASTRUCTURE, "no", 1)
    assert "403" in str(r.error)
    said = capfd.readouterr()
    assert "s3cret" not in said.out + said.err + r.model_dump_json()


async def test_without_a_server_external_tools_are_rejected_by_name(settings: Settings, state: FleetState) -> None:
    async with one_worker(settings, state) as (fleet, _), fleet.trajectory("t1") as t:
        for name in ("web_search", "look_up"):
            r = await t.call(name, {"query": "x"})
            assert (r.status, r.fault, r.executed) == (Status.REJECTED, Fault.POLICY, "no")
            assert r.error == f"external tool not available (ToolServer not configured): {name}"
        unknown = await t.call("no_such", {})
        available = str(unknown.error).partition("available: ")[2].split(". ")[0].rstrip(".").split(", ")
        assert {"add", "count_words", "echo", "terminal"} <= set(available)
        assert "web_search" not in available


async def test_a_profile_may_forbid_them(settings: Settings, state: FleetState, server: Server) -> None:
    policy = {"TOOLFLEET_PROFILES__DEFAULT__TOOLS": '["terminal", "add"]'}
    async with one_worker(settings, state, **reaches(server), **policy) as (fleet, _), fleet.trajectory("t1") as t:
        assert (await t.call("add", {"a": 1})).ok
        r = await t.call("look_up", {"query": "x"})
    assert (r.status, r.executed) == (Status.REJECTED, "no")
    assert "does not allow the tool 'look_up'" in str(r.error)


async def test_a_module_that_cannot_be_used_stops_the_worker_with_the_reason(
    redis_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with worker("w1", redis_url, **{**ENV, "TOOLFLEET_TOOLS": '["own_tolls"]'}) as process:
        assert await asyncio.to_thread(process.wait, 60) != 0
    assert "own_tolls" in capfd.readouterr().err
