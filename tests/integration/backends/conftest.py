"""Real bubblewrap sandboxes, and a check that nothing of them is left behind."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from host_processes import processes_of

from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import FIRST_UID, BubblewrapBackend
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.sandbox import RunnerSandbox
from toolfleet.config.errors import BackendUnavailable
from toolfleet.config.profile import Profile

OWNER = Owner("test-fleet", "worker-1")

#: The host's users of the sandboxes that the running test has made.
_users: set[int] = set()


class Watched(BubblewrapBackend):
    """Remembers as which users its sandboxes run."""

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> RunnerSandbox:
        """Make a sandbox."""
        sandbox = await super().create(profile, owner, origin)
        _users.add(FIRST_UID + int(sandbox.ref.id[:6], 16))
        return sandbox


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
    running = processes_of(_users) if os.geteuid() == 0 else {}
    assert not running, f"left running: {running}"


@pytest.fixture
async def backend(runtime_dir: Path) -> AsyncIterator[BubblewrapBackend]:
    """A backend whose sandboxes are destroyed at the end, and leave no cgroup."""
    backend = Watched(runtime_dir)
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
