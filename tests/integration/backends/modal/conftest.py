"""Sandboxes on a stand-in for Modal's cloud, and a check that nothing of them is left behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from integration.backends.modal.rig import ME, Create, eventually, profile
from standins.modal.client import StandIn

from toolfleet.backends.base import Owner
from toolfleet.backends.modal import ModalBackend, ModalSandbox


@pytest.fixture
async def backend(modal_cloud: StandIn, tmp_path: Path) -> AsyncIterator[ModalBackend]:
    """The backend, with a client of its own."""
    backend = ModalBackend(tmp_path)
    yield backend
    await backend.shutdown()


@pytest.fixture
async def create(modal_cloud: StandIn, backend: ModalBackend) -> AsyncIterator[Create]:
    """Makes sandboxes, which end with the test."""
    made: list[ModalSandbox] = []

    async def create(owner: Owner = ME, origin: str | None = None, **fields: Any) -> ModalSandbox:
        made.append(await backend.create(profile(**fields), owner, origin))
        return made[-1]

    yield create
    modal_cloud.do("clear")
    await asyncio.gather(*(sandbox.close() for sandbox in made))
    await eventually(lambda: not modal_cloud.do("sandboxes"))
