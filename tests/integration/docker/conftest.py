"""Real containers on a real engine, and a check that nothing of them is left behind."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import docker
import pytest
from docker_engine import DEBIAN

from toolfleet.backends.base import Owner
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.docker import DockerBackend
from toolfleet.config.profile import Profile

OWNER = Owner("test-fleet", "worker-1")

Make = Callable[..., Awaitable[Box]]


def profile(**fields: Any) -> Profile:
    """A profile of the tests' Debian, unless told otherwise."""
    return Profile.model_validate({"backend": "docker", "image": DEBIAN, **fields})


@pytest.fixture
def client(docker_url: str, monkeypatch: pytest.MonkeyPatch) -> "docker.APIClient":
    """The test's own look at the engine that backends use, too."""
    for variable in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DOCKER_HOST", docker_url)
    return docker.APIClient(base_url=docker_url, version="auto", timeout=60)


@pytest.fixture
async def backend(client: "docker.APIClient") -> AsyncIterator[DockerBackend]:
    """A backend with an empty runtime directory; at the end neither that nor the engine holds anything of it."""
    runtime_dir = Path(tempfile.mkdtemp(prefix="toolfleet-"))
    backend = DockerBackend(runtime_dir)
    yield backend
    for ref in await backend.list(OWNER):
        await backend.destroy(ref)
    await backend.shutdown()
    left = [*(runtime_dir / "docker").glob("*")]
    shutil.rmtree(runtime_dir)
    assert not left, f"left in the runtime directory: {left}"
    assert not await asyncio.to_thread(remains, client)
    client.close()


def remains(client: "docker.APIClient") -> list[str]:
    """What of the tests' fleets the engine still has."""
    mine = {"label": ["toolfleet.fleet=test-fleet"]}
    containers = [container["Names"][0] for container in client.containers(all=True, filters=mine)]
    networks = [network["Name"] for network in client.networks(filters={"label": "toolfleet.network"})]
    snapshots = [image["Id"] for image in client.images(filters=mine, all=True)]
    return containers + networks + snapshots


@pytest.fixture
def make(backend: DockerBackend) -> Make:
    """Makes sandboxes of the tests' Debian."""

    async def make(origin: str | None = None, owner: Owner = OWNER, **fields: Any) -> Box:
        return Box(await backend.create(profile(**fields), owner, origin))

    return make
