"""A runner that an engine has started, reached through a relay: no inherited descriptor, no path to be trusted."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from toolfleet.backends import runtime, transports
from toolfleet.backends.base import Outcome, Request
from toolfleet.backends.channel import Channel, Connector, Line
from toolfleet.backends.local.processes import Identity
from toolfleet.backends.runner import config as boot
from toolfleet.backends.runner.config import MIB, Config
from toolfleet.backends.runner.seal import new_secret
from toolfleet.backends.transports import command, sealed
from toolfleet.config.errors import SandboxLost

#: The ways to start a runner: (mode, in a PID namespace of its own, as another user than root).
WAYS = {
    "foreground": ("listen", False, False),
    "daemon": ("daemon", False, False),
    "pid-1": ("listen", True, False),
    "unprivileged": ("daemon", False, True),
}


@dataclass
class Started:
    """A runner, and how to reach it."""

    address: str
    secret: bytes
    pid: int
    """On this machine."""
    relay: list[str]

    def connector(self, secret: bytes | None = None) -> Connector:
        """A connector over a relay, with the right secret unless another one is given."""
        return sealed(command(*self.relay), secret or self.secret)

    def channel(self) -> Channel:
        """A channel of its own."""
        return Channel(self.connector(), "the standalone runner")

    async def sh(self, channel: Channel, line: str, timeout: float = 20.0, call_id: str | None = None) -> Outcome:
        """Run a shell command."""
        return await channel.run(Request(call_id or os.urandom(4).hex(), "exec", {"command": line}, timeout))


def _config(ttl: float = 60.0) -> Config:
    return Config(disk=64 * MIB, memory=512 * MIB, pids=64, ttl=ttl, env={"A": "b"}, inherit=True, count=False)


@pytest.fixture(params=WAYS)
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[..., Started]]:
    """Starts runners in one of the ways."""
    mode, namespace, unprivileged = WAYS[request.param]
    if (namespace or unprivileged) and os.geteuid() != 0:
        pytest.skip("only root can start a runner this way")
    bundle = await asyncio.to_thread(runtime.ensure, tmp_path)
    started: list[Started] = []
    processes: list[subprocess.Popen[bytes]] = []

    def start(ttl: float = 60.0) -> Started:
        secret = new_secret()
        address = f"@toolfleet-test-{os.urandom(6).hex()}"
        prefix = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"] if namespace else []
        process = subprocess.Popen(
            [*prefix, *bundle.argv(str(bundle.path), mode, address, program="standalone")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=65534 if unprivileged else None,
            env={"PATH": os.environ["PATH"]},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        processes.append(process)
        process.stdin.write(boot.line(_config(ttl), secret))
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        pid = process.pid if mode == "listen" and not namespace else _listening(address)
        relay = bundle.argv(str(bundle.path), address, program="relay")
        started.append(Started(address, secret, pid, relay))
        return started[-1]

    yield start
    for runner in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(runner.pid, signal.SIGKILL)
    for process in processes:
        await asyncio.to_thread(process.wait)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def _listening(address: str) -> int:
    """Who listens at an abstract address: the peer of a connection to it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + address[1:])
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
        return int.from_bytes(credentials, sys.byteorder)


async def test_calls_run_through_a_relay(start: Callable[..., Started]) -> None:
    """In the environment of the image, with the profile's over it; files come through whole."""
    runner = start()
    channel = runner.channel()
    outcome = await runner.sh(channel, 'echo "$A $PWD" >&2; exit 3')
    assert (outcome.exit_code, outcome.stderr) == (3, b"b /\n")
    body = os.urandom(5_000_000)
    path = f"/tmp/{runner.address}"
    written = await channel.run(Request("w", "write", {"path": path}, 20, body))
    assert written.error is None
    back = await channel.run(Request("r", "read", {"path": path, "max_bytes": 2**30}, 20))
    assert back.stdout == body
    await runner.sh(channel, f"rm {path}")
    await channel.detach()


async def test_a_connection_that_comes_about_while_its_channel_is_closed_is_hung_up(
    start: Callable[..., Started],
) -> None:
    """Nobody else would: its relay would stay for as long as the runner lives."""
    runner = start()
    dialling, go_on, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def connect(factory: Callable[[], asyncio.Protocol]) -> Line:
        dialling.set()
        await go_on.wait()
        protocol = factory()
        tell = protocol.connection_lost

        def connection_lost(exc: Exception | None) -> None:
            tell(exc)
            lost.set()

        protocol.connection_lost = connection_lost  # type: ignore[method-assign]
        return await runner.connector()(lambda: protocol)

    channel = Channel(connect, "the standalone runner")
    opening = asyncio.create_task(channel.open())
    await dialling.wait()
    await channel.detach()
    go_on.set()
    with pytest.raises(SandboxLost, match="is closed"):
        await opening
    assert lost.is_set()


async def test_a_channel_that_was_dropped_is_not_collected_while_it_works(start: Callable[..., Started]) -> None:
    """What the collector breaks off leaves a relay behind; the loop's end, or the runner's, closes it in order."""
    runner = start()
    before = set(transports._pumping)
    channel = runner.channel()
    await channel.open()
    del channel
    gc.collect()
    (pump,) = transports._pumping - before
    assert not pump.done()
    os.kill(runner.pid, signal.SIGKILL)
    await asyncio.wait({pump})
    assert pump not in transports._pumping


async def test_a_cut_connection_is_taken_up_again(start: Callable[..., Started]) -> None:
    """The runner lives on without a relay; the call runs once and its outcome waits."""
    runner = start()
    channel = runner.channel()
    marker = f"/tmp/{runner.address}-go"
    line = f"until [ -e {marker} ]; do sleep 0.01; done; echo done; rm {marker}"
    running = asyncio.create_task(runner.sh(channel, line, call_id="c"))
    while await channel.query("c") != "running":
        await asyncio.sleep(0.01)
    link = channel._link
    assert link is not None
    link.transport.abort()
    other = runner.channel()
    assert await other.query("c") == "running"
    await runner.sh(other, f"touch {marker}")
    assert (await running).stdout == b"done\n"
    await channel.detach()
    await other.detach()


async def test_a_tree_is_killed_and_no_stranger(start: Callable[..., Started]) -> None:
    """Also where the runner is one process of many: it ends what it has started, orphans included, and nothing else."""
    runner = start()
    channel = runner.channel()
    bystander = await asyncio.create_subprocess_exec("sleep", "777")
    name = f"sleep 77{os.getpid()}"
    outcome = await runner.sh(channel, f"setsid {name} & (env -i {name} &); {name}", timeout=0.3)
    assert outcome.exit_code == 124
    assert (await asyncio.to_thread(subprocess.run, ["pgrep", "-fx", name], stdout=subprocess.PIPE)).stdout == b""
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()
    await channel.detach()


async def test_without_pings_it_ends_with_all_it_has_started(start: Callable[..., Started]) -> None:
    """And with nothing else."""
    runner = start()
    channel = runner.channel()
    name = f"sleep 88{os.getpid()}"
    await runner.sh(channel, f"setsid {name} >/dev/null 2>&1 & (env -i {name} >/dev/null 2>&1 &)")
    bystander = await asyncio.create_subprocess_exec("sleep", "777")
    identity = Identity.of(runner.pid)
    assert identity is not None
    await channel.ping(0.2)
    while identity.alive:
        await asyncio.sleep(0.01)
    assert (await asyncio.to_thread(subprocess.run, ["pgrep", "-fx", name], stdout=subprocess.PIPE)).stdout == b""
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()
    with pytest.raises(SandboxLost, match="no runner listens"):
        await channel.ping(1)


async def test_who_does_not_know_the_secret_is_nobody(start: Callable[..., Started]) -> None:
    """A wrong secret, no seal at all, and a crowd that says nothing; who knows it is still served."""
    runner = start()
    stranger = Channel(runner.connector(new_secret()), "x")
    with pytest.raises(SandboxLost):
        await stranger.ping(1)
    crowd = []
    for _ in range(100):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect("\0" + runner.address[1:])
        crowd.append(sock)
    crowd[-1].sendall(b"\0\0\0\2\0\0\0\0{}" * 10)
    channel = runner.channel()
    assert (await runner.sh(channel, "echo on")).stdout == b"on\n"
    for sock in crowd:
        sock.close()
    await channel.detach()


async def test_an_impostor_learns_and_gains_nothing(start: Callable[..., Started]) -> None:
    """Whoever takes the runner's address after its end is not believed."""
    runner = start()
    channel = runner.channel()
    await channel.open()
    identity = Identity.of(runner.pid)
    assert identity is not None
    os.kill(runner.pid, signal.SIGKILL)
    while identity.alive:
        await asyncio.sleep(0.01)

    async def imitate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            heard.append(data)
            writer.write(data)  # a reflection, with nonce, tag and all
        writer.close()

    heard: list[bytes] = []
    impostor = await asyncio.start_unix_server(imitate, "\0" + runner.address[1:])
    while not heard:  # the first attempt may still meet the end of the former connection
        with pytest.raises(SandboxLost):
            await channel.ping(1)
    assert runner.secret not in b"".join(heard)
    impostor.close()


async def test_the_runner_cannot_be_looked_into(start: Callable[..., Started]) -> None:
    """By a command of the same user, root included; its arguments and variables tell nothing anyway."""
    runner = start()
    channel = runner.channel()
    outcome = await runner.sh(channel, "for f in mem fd/3; do head -c 1 /proc/$PPID/$f; done")
    assert outcome.stderr.count(b"Permission denied") == 2, outcome.stderr
    status = (await runner.sh(channel, "grep CapBnd /proc/self/status")).stdout
    if os.geteuid() == 0 and Identity.of(runner.pid) and Path(f"/proc/{runner.pid}").stat().st_uid == 0:
        assert not int(status.split()[1], 16) & 1 << 19
    assert runner.secret.hex().encode() not in Path(f"/proc/{runner.pid}/cmdline").read_bytes()
    assert runner.secret.hex().encode() not in Path(f"/proc/{runner.pid}/environ").read_bytes()
    await channel.detach()


async def test_a_start_without_a_configuration_says_so(tmp_path: Path) -> None:
    """On standard error, with exit code 1."""
    bundle = await asyncio.to_thread(runtime.ensure, tmp_path)
    for mode in ("listen", "daemon"):
        argv = bundle.argv(str(bundle.path), mode, f"@{tmp_path}", program="standalone")
        done = await asyncio.to_thread(subprocess.run, argv, input=b"", capture_output=True)
        assert done.returncode == 1
        assert b"has sent no configuration" in done.stderr
