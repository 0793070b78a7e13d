"""A fleet of containers from docker-compose.yml, used from outside, and a check that nothing of it is left."""

import asyncio
import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker_engine
import pytest
from integration.compose import stand_ins
from integration.compose.project import Project

from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet

#: How many of each kind are started.
WORKERS = {"worker": 3, "docker-worker": 2}
_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def inside(network: Path | None) -> Iterator[None]:
    """Be in another network namespace, with every thread and process started from here on."""
    if network is None:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {path}")
        finally:
            os.close(descriptor)

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(network)
        try:
            yield
        finally:
            enter(Path(f"/proc/self/fd/{home}"))
    finally:
        os.close(home)


# Of the module, and not the package: for a folder without __init__.py that would be the session, and whatever is
# tested after this folder would start its processes in the engine's network.
@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """The project, up; afterwards the engine holds nothing of it, and every worker has ended in order."""
    with docker_engine.place(way_out=True) as place, tempfile.TemporaryDirectory(prefix="tf-") as folder:
        project = Project(place, Path(folder))
        if place.network is not None:
            stand_ins.make(project.client)
        try:
            with inside(place.network):
                project("build", "--quiet")
                project("up", "--detach", *(f"--scale={kind}={count}" for kind, count in WORKERS.items()))
                yield project
                running = [c["Id"] for kind in WORKERS for c in project.containers(kind, running=True)]
                project("stop")
                ends = {c["Id"]: c["State"]["ExitCode"] for kind in WORKERS for c in project.containers(kind)}
                assert {ends[ident] for ident in running} == {0}, project("logs", "--tail", "20")
        finally:
            project("down", "--volumes", "--rmi", "all" if place.network is not None else "local")
            # The sandboxes of a worker that was killed end by themselves, a while after it.
            until = time.monotonic() + 90
            while left := project.remains():
                assert time.monotonic() < until, f"left on the engine: {left}"
                time.sleep(0.2)
            project.client.close()


@pytest.fixture
async def fleet(project: Project) -> AsyncIterator[Fleet]:
    """The fleet, by URL, as soon as every worker that runs serves it, and no other one is counted."""
    url = f"redis://:{project.redis_password}@127.0.0.1:{project.redis_port}/0"
    count = sum(len(project.containers(kind, running=True)) for kind in WORKERS)
    async with Fleet.connect(Settings(redis_url=url, fleet=project.name)) as fleet:
        async with asyncio.timeout(90):
            while [w.get("accepting") for w in (await fleet.state.workers()).values()] != ["1"] * count:
                await asyncio.sleep(0.2)
        yield fleet
