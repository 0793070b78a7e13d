"""What tests of the backend ``morph`` make and ask."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from toolfleet.backends.base import Outcome, Owner, Request
from toolfleet.backends.morphvm.sandbox import MorphSandbox
from toolfleet.config.profile import Profile

OWNER = Owner("test-fleet", "worker-1")
_call_ids = (f"call-{number}" for number in itertools.count())


class Vm:
    """A sandbox with short verbs."""

    def __init__(self, sandbox: MorphSandbox) -> None:
        self.sandbox = sandbox

    @property
    def id(self) -> str:
        """The instance."""
        return self.sandbox.ref.id

    @staticmethod
    def request(command: str, call_id: str | None = None, timeout: float = 20.0) -> Request:
        """A request to run a shell command."""
        return Request(call_id or next(_call_ids), "exec", {"command": command}, timeout)

    async def sh(self, command: str, call_id: str | None = None, timeout: float = 20.0) -> Outcome:
        """Run a shell command."""
        return await self.sandbox.run(self.request(command, call_id, timeout))

    async def text(self, command: str) -> str:
        """What a command prints; it must succeed."""
        outcome = await self.sh(command)
        assert outcome.exit_code == 0, (outcome.stdout, outcome.stderr, outcome.error)
        return outcome.stdout.decode().strip()

    @staticmethod
    async def eventually(fact: Callable[[], Awaitable[bool]], within: float = 30.0) -> None:
        """Wait until a fact holds."""
        until = time.monotonic() + within
        while not await fact():
            assert time.monotonic() < until, "it never came true"
            await asyncio.sleep(0.02)


Make = Callable[..., Awaitable[Vm]]


def profile(**fields: Any) -> Profile:
    """A profile that the stand-in's base snapshot can hold."""
    base = {"backend": "morph", "image": "snapshot_base", "network": "bridge", "storage": "disk", "disk_mib": 4096}
    return Profile.model_validate({**base, **fields})
