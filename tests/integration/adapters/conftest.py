"""A whole embedded fleet behind a `SyncFleet`, shared by the tests of a module."""

import shutil
from collections.abc import Iterator

import pytest
from services import missing

from toolfleet.config.profile import Profile
from toolfleet.producer import SyncFleet
from toolfleet.producer.adapters.rollouts import Rollouts


@pytest.fixture(scope="module")
def fleet() -> Iterator[SyncFleet]:
    """Two workers with four slots each, on a loop of its own."""
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    profiles = {"default": Profile(), "reader": Profile(tools=("read_file",)), "hecate": Profile()}
    with SyncFleet.connect(workers=2, slots=4, heartbeat=0.2, lease_ttl=3.0, profiles=profiles) as connected:
        yield connected


@pytest.fixture
def rollouts(fleet: SyncFleet) -> Iterator[Rollouts]:
    """The tasks of one test; all are ended after it."""
    tasks = Rollouts(fleet)
    yield tasks
    tasks.bridge.wait(tasks.release_all())
