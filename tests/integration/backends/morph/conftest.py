"""Sandboxes on a stand-in for MorphCloud, and a check that nothing of them is left behind."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.backends.morph.rig import OWNER, Make, Vm, profile
from standins.morph.process import StandIn

from toolfleet.backends.base import Owner
from toolfleet.backends.morph import MorphBackend


@pytest.fixture
def cloud(morph_cloud: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A cloud that has no instance before and after."""
    for name, value in morph_cloud.environment.items():
        monkeypatch.setenv(name, value)
    yield morph_cloud
    morph_cloud.clear()
    assert not morph_cloud.instances()


@pytest.fixture
async def backend(cloud: StandIn, tmp_path: Path) -> AsyncIterator[MorphBackend]:
    """A backend whose sandboxes are destroyed at the end."""
    backend = MorphBackend(tmp_path)
    yield backend
    cloud.clear()
    for ref in await backend.list():
        await backend.destroy(ref)
    await backend.shutdown()


@pytest.fixture
async def make(backend: MorphBackend) -> AsyncIterator[Make]:
    """Makes sandboxes of a profile, closed at the end."""
    made = []

    async def make(owner: Owner = OWNER, origin: str | None = None, **fields: Any) -> Vm:
        vm = Vm(await backend.create(profile(**fields), owner, origin))
        made.append(vm)
        return vm

    yield make
    for vm in made:
        await vm.sandbox.close()


@pytest.fixture
async def vm(make: Make) -> Vm:
    """One sandbox."""
    return await make()


@pytest.fixture
def environment(cloud: StandIn) -> dict[str, str]:
    """For other processes: this one's, with the way to the cloud."""
    return {**os.environ, **cloud.environment}
