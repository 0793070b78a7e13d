"""What tests of the backend ``modal`` make and ask."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from toolfleet.backends.base import Outcome, Owner, Request
from toolfleet.backends.modal import ModalSandbox
from toolfleet.config.profile import Profile

ME = Owner("fleet", "me")

Create = Callable[..., Awaitable[ModalSandbox]]

_call_ids = (f"call-{number}" for number in itertools.count())


def profile(*, modal: dict[str, Any] | None = None, **fields: Any) -> Profile:
    """A profile that Modal accepts."""
    options = {"unlimited_disk": True, **(modal or {})}
    return Profile.model_validate(
        {"backend": "modal", "image": "debian:bookworm-slim", "storage": "disk", "modal": options, **fields}
    )


async def eventually(fact: Callable[[], Any], within: float = 15.0) -> None:
    """Wait until a fact holds."""
    until = time.monotonic() + within
    while not fact():
        assert time.monotonic() < until, "it never came true"
        await asyncio.sleep(0.01)


async def sh(sandbox: ModalSandbox, command: str, timeout: float = 20.0, call_id: str | None = None) -> Outcome:
    """Run a shell command."""
    return await sandbox.run(Request(call_id or next(_call_ids), "exec", {"command": command}, timeout))


async def text(sandbox: ModalSandbox, command: str) -> str:
    """What a command prints; it must succeed."""
    outcome = await sh(sandbox, command)
    assert outcome.exit_code == 0, outcome
    return outcome.stdout.decode().strip()


async def until_running(sandbox: ModalSandbox, call_id: str) -> None:
    """Wait until a call has begun."""
    while await sandbox.query(call_id) != "running":
        await asyncio.sleep(0.01)
