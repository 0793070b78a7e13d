"""A backend that fails to start a sandbox as often as an environment variable says, then works."""

import os
from pathlib import Path

from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.sandbox import RunnerSandbox
from toolfleet.config.errors import SandboxStartFailed
from toolfleet.config.profile import Profile


class FlakyBackend(BubblewrapBackend):
    """Bubblewrap, with start failures put in front."""

    def __init__(self, runtime_dir: Path) -> None:
        super().__init__(runtime_dir)
        self._failures = int(os.environ["FLAKY_FAILURES"])

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> RunnerSandbox:
        """Fail, or start a sandbox."""
        if self._failures:
            self._failures -= 1
            raise SandboxStartFailed("the engine is busy")
        return await super().create(profile, owner, origin)
