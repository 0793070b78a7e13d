"""A backend whose starts wait until the file that an environment variable names is there, then work."""

import asyncio
import os
import secrets
from pathlib import Path

from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.sandbox import RunnerSandbox
from toolfleet.config.profile import Profile


class GatedBackend(BubblewrapBackend):
    """Bubblewrap, with a gate in front."""

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> RunnerSandbox:
        """Say that we wait, wait for the gate to open, and start a sandbox."""
        gate = Path(os.environ["GATE"])
        (gate.parent / f"waiting.{secrets.token_hex(4)}").touch()
        while not gate.exists():
            await asyncio.sleep(0.01)
        return await super().create(profile, owner, origin)
