"""Real bubblewrap sandboxes, and a check that nothing of them is left behind."""

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolfleet.backends.base import Outcome, Owner, Request
from toolfleet.backends.bubblewrap import FIRST_UID, BubblewrapBackend
from toolfleet.backends.sandbox import RunnerSandbox
from toolfleet.config.errors import BackendUnavailable
from toolfleet.config.profile import Profile

OWNER = Owner("test-fleet", "worker-1")

#: The host's users of the sandboxes that the running test has made.
_users: set[int] = set()
_call_ids = (f"call-{number}" for number in itertools.count())


class Box:
    """A sandbox with short verbs; tests get it from fixtures and import nothing from here but its type."""

    def __init__(self, sandbox: RunnerSandbox) -> None:
        self.sandbox = sandbox
        _users.add(FIRST_UID + int(sandbox.ref.id[:6], 16))

    @staticmethod
    def request(op: Any, timeout: float = 20.0, call_id: str | None = None, body: bytes = b"", **args: Any) -> Request:
        """A request, with an id of its own unless one is given."""
        return Request(call_id or next(_call_ids), op, args, timeout, body)

    @staticmethod
    async def eventually(fact: Callable[[], Awaitable[bool]], within: float = 10.0) -> None:
        """Wait until a fact holds."""
        until = time.monotonic() + within
        while not await fact():
            assert time.monotonic() < until, "it never came true"
            await asyncio.sleep(0.01)

    async def sh(self, command: str, timeout: float = 20.0, call_id: str | None = None, **args: Any) -> Outcome:
        """Run a shell command."""
        return await self.sandbox.run(self.request("exec", timeout, call_id, command=command, **args))

    async def text(self, command: str, **args: Any) -> str:
        """What a command prints; it must succeed."""
        outcome = await self.sh(command, **args)
        assert outcome.exit_code == 0, (outcome.stdout, outcome.stderr, outcome.error)
        return outcome.stdout.decode().strip()

    async def read(self, path: str, **args: Any) -> Outcome:
        """Read a file."""
        return await self.sandbox.run(self.request("read", path=path, **args))

    async def write(self, path: str, body: bytes, **args: Any) -> Outcome:
        """Write a file."""
        return await self.sandbox.run(self.request("write", body=body, path=path, **args))

    async def unpack(self, dest: str, body: bytes) -> Outcome:
        """Unpack an archive."""
        return await self.sandbox.run(self.request("unpack", body=body, dest=dest))

    async def commands(self) -> list[str]:
        """The command lines of all processes in the sandbox, but for the runner and this look at them."""
        listing = await self.text("ps -eo pid=,ppid=,args= | cat")
        lines = [line.split(None, 2) for line in listing.splitlines()]
        mine = {line[0] for line in lines if "ps -eo pid=" in line[2]}
        return [line[2] for line in lines if line[0] != "1" and line[0] not in mine and line[1] not in mine]


def _processes_of(users: set[int]) -> dict[int, str]:
    """Host processes of these users, with their command lines; zombies are their parent's affair."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = (entry / "status").read_text()
                if "State:\tZ" not in status and int(status.partition("Uid:")[2].split()[0]) in users:
                    found[int(entry.name)] = (entry / "cmdline").read_text()
    return found


@pytest.fixture(scope="session")
def _bwrap() -> None:
    """Tests of this folder need a machine that can run bubblewrap."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(BubblewrapBackend(Path(folder)).probe())
        except BackendUnavailable as error:
            if os.environ.get("CI"):
                pytest.fail(f"CI must run bubblewrap: {error}")
            pytest.skip(str(error))


@pytest.fixture
def runtime_dir(_bwrap: None) -> Iterator[Path]:
    """An empty runtime directory, which must be empty again at the end, as must be /proc and the cgroups."""
    _users.clear()
    path = Path(tempfile.mkdtemp(prefix="toolfleet-"))
    yield path
    left = [*(path / "sandboxes").glob("*")]
    shutil.rmtree(path)
    assert not left, f"left in the runtime directory: {left}"
    running = _processes_of(_users) if os.geteuid() == 0 else {}
    assert not running, f"left running: {running}"


@pytest.fixture
async def backend(runtime_dir: Path) -> AsyncIterator[BubblewrapBackend]:
    """A backend whose sandboxes are destroyed at the end, and leave no cgroup."""
    backend = BubblewrapBackend(runtime_dir)
    groups = backend._cgroups()
    yield backend
    ids = [ref.id for ref in await backend.list()]
    for ref in await backend.list():
        await backend.destroy(ref)
    await backend.shutdown()
    if groups is not None:
        assert not [name for name in ids if groups.path(name).exists()]


@pytest.fixture
def make(backend: BubblewrapBackend) -> Callable[..., Awaitable[Box]]:
    """Makes sandboxes of a profile."""

    async def make(**profile: Any) -> Box:
        return Box(await backend.create(Profile(**profile), OWNER))

    return make


@pytest.fixture
async def box(make: Callable[..., Awaitable[Box]]) -> AsyncIterator[Box]:
    """One sandbox of the default profile."""
    box = await make()
    yield box
    await box.sandbox.close()
