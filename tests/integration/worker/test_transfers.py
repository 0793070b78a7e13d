"""Files that are on their way when a worker or a sandbox dies: right in the end, or told by type."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from subprocess import Popen
from typing import Any, TypeVar

import pytest
from fleet_processes import worker
from services import missing

from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.config.errors import TransferInterrupted
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.producer import Fleet

T = TypeVar("T")
SIZE = 60_000_000


class Host:
    """Two workers of one machine, which reach each other's sandboxes."""

    def __init__(self, run: Path, workers: dict[str, Popen[bytes]], state: FleetState) -> None:
        self.run = run
        self.workers = workers
        self._state = state

    async def amid(self, transfer: Coroutine[Any, Any, T], parts: int = 3) -> asyncio.Task[T]:
        """Start ``transfer`` and wait until some parts of it are under way."""
        task = asyncio.create_task(transfer)
        seen: set[bytes] = set()
        while len(seen) < parts:
            assert not task.done(), await task
            seen |= {key async for key in self._state.redis.scan_iter("*:part:*")}
        return task


@pytest.fixture
async def host(redis_url: str, state: FleetState) -> AsyncIterator[Host]:
    """Both alive."""
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        env = {"TOOLFLEET_RUNTIME_DIR": f"{folder}/run", "TOOLFLEET_PROFILES__DEFAULT__WARM": "0"}
        with worker("w1", redis_url, "4", **env) as first, worker("w2", redis_url, "4", **env) as second:
            while set(await state.workers()) != {"w1", "w2"}:
                await asyncio.sleep(0.02)
            yield Host(Path(folder) / "run", {"w1": first, "w2": second}, state)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A file of many parts."""
    file = tmp_path / "f"
    file.write_bytes(os.urandom(SIZE))
    return file


async def test_an_upload_outlives_its_worker(settings: Settings, host: Host, content: Path) -> None:
    """Killed with parts in flight; the file is right at the end, and nothing else is there."""
    async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        dies = (await t.terminal("true")).worker_id
        upload = await host.amid(t.upload(content, "/tmp/f"))
        host.workers[dies].send_signal(signal.SIGKILL)
        moved = await upload
        told = await t.terminal("sha256sum < /tmp/f; ls -A /tmp")
    assert told.stdout == f"{moved.sha256}  -\nf\n"
    assert (told.worker_id != dies, told.workspace_generation, moved.bytes) == (True, 1, SIZE)


async def test_a_download_outlives_its_worker(settings: Settings, host: Host, content: Path, tmp_path: Path) -> None:
    async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        dies = (await t.terminal("true")).worker_id
        await t.upload(content, "/tmp/f")
        download = await host.amid(t.download("/tmp/f", tmp_path / "g"), parts=1)
        host.workers[dies].send_signal(signal.SIGKILL)
        await download
    assert (tmp_path / "g").read_bytes() == content.read_bytes()


async def test_a_transfer_whose_workspace_is_gone_says_so(settings: Settings, host: Host, content: Path) -> None:
    """By type; it does not go on in an empty workspace."""
    async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
        await t.terminal("true")
        upload = await host.amid(t.upload(content, "/tmp/f"))
        backend = BubblewrapBackend(host.run)
        for ref in await backend.list():
            await backend.destroy(ref)
        with pytest.raises(TransferInterrupted, match="the workspace is gone"):
            await upload
        while not (await t.terminal("true")).ok:
            pass
        assert (await t.terminal("ls -A /tmp")).stdout == ""
