"""``toolfleet executor`` as a process: what it says, whom it lets in, and how it ends."""

import asyncio
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import aiohttp
import pytest
from fleet_processes import TOOLFLEET, free_port, process
from services import missing

from toolfleet.producer.fronts.serve import listen


async def until_healthy(http: aiohttp.ClientSession) -> None:
    """Wait until the server answers."""
    while True:
        try:
            async with http.get("/health") as answer:
                assert answer.status == 200
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.05)


async def until_held(http: aiohttp.ClientSession) -> None:
    """Wait until a trajectory has a slot."""
    while True:
        async with http.get("/status") as answer:
            if (await answer.json())["pool"]["acquired_slots"]:
                return
        await asyncio.sleep(0.02)


async def connects(port: int) -> bool:
    """Whether anybody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def execute(trajectory_id: str, command: str) -> dict[str, object]:
    """The body of a request that runs ``command``."""
    return {"trajectory_id": trajectory_id, "tool": {"name": "bash", "arguments": {"command": command}}}


@pytest.fixture
def bwrap() -> None:
    """Skip without bubblewrap."""
    if subprocess.run(["which", "bwrap"], capture_output=True, check=False).returncode:
        missing("bubblewrap")


@pytest.mark.usefixtures("bwrap")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_lets_the_call_that_runs_end_and_leaves_nothing(number: signal.Signals) -> None:
    port = free_port()
    with process("executor", "--port", str(port)) as server:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await until_healthy(http)
            running = asyncio.create_task(http.post("/execute", json=execute("t", "sleep 2; echo done")))
            await until_held(http)
            server.send_signal(number)
            answer = await running
            assert (await answer.json())["output"] == "done\n"
        assert await asyncio.to_thread(server.wait, 30) == 0


@pytest.mark.usefixtures("bwrap")
async def test_a_second_signal_does_not_wait_for_the_call_that_runs() -> None:
    port = free_port()
    with process("executor", "--port", str(port), "--drain", "300") as server:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await until_healthy(http)
            running = asyncio.create_task(http.post("/execute", json=execute("t", "sleep 250")))
            await until_held(http)
            server.send_signal(signal.SIGINT)
            while await connects(port):
                await asyncio.sleep(0.02)
            assert not running.done()
            server.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(server.wait, 60) == 0
            running.cancel()


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["--host", "0.0.0.0"], {}, "set TOOL_EXECUTOR_TOKEN"),
        ([], {"TOOL_EXECUTOR_SLOTS": "many"}, "TOOL_EXECUTOR_SLOTS: "),
        (["--profile", "defualt"], {}, "Did you mean 'default'?"),
        (
            [],
            {"TOOLFLEET_PROFILES": '{"default": {"network": "host"}}', "TOOL_EXECUTOR_ALLOW_NETWORK": "false"},
            "none",
        ),
    ],
)
def test_what_cannot_be_served_is_told_at_once(arguments: list[str], env: dict[str, str], says: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*TOOLFLEET, "executor", "--port", "0", *arguments],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*TOOLFLEET, "executor", "--port", str(port)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_answers_do_not_wait_for_the_receipt_of_their_beginning() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.usefixtures("bwrap")
async def test_variables_of_the_predecessor_are_read_and_the_idle_ones_named(tmp_path: Path) -> None:
    port = free_port()
    # A token in a file `.env`, as the predecessor read it; never in an argument.
    (tmp_path / ".env").write_text("TOOL_EXECUTOR_TOKEN=from-the-file\nTOOL_EXECUTOR_BATCH_WINDOW_MS=20\nOTHER=1\n")
    server = await asyncio.create_subprocess_exec(
        *[*TOOLFLEET, "executor", "--port", str(port)], cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await until_healthy(http)
            async with http.get("/status") as answer:
                assert answer.status == 401
            async with http.get("/status", headers={"authorization": "Bearer from-the-file"}) as answer:
                assert (await answer.json())["pool"]["total_slots"] == 10
    finally:
        server.terminate()
        _, said = await server.communicate()
    assert "TOOL_EXECUTOR_BATCH_WINDOW_MS has no meaning for a fleet" in said.decode()
    assert "from-the-file" not in said.decode()
    assert server.returncode == 0
