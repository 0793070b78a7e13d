"""Checks, what they run against, and the run of all of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from toolfleet.backends.base import Backend, Owner, SandboxRef
from toolfleet.backends.conformance.box import Box
from toolfleet.config.errors import SandboxLost
from toolfleet.config.profile import Profile

#: Seconds that one check may take.
PATIENCE = 120.0

Verdict = Literal["holds", "deviates", "fails"]


class Rig:
    """A backend, a profile, and the sandboxes that a check makes of them."""

    def __init__(self, backend: Backend, profile: Profile, owner: Owner) -> None:
        self.backend = backend
        self.profile = profile
        self.owner = owner
        self._boxes: list[Box] = []

    async def box(self, owner: Owner | None = None, origin: str | None = None, **fields: Any) -> Box:
        """A new sandbox of the profile, with other values for ``fields``; it goes at the end of the check."""
        profile = Profile.model_validate({**self.profile.model_dump(exclude_defaults=True), **fields})
        box = Box(await self.backend.create(profile, owner or self.owner, origin))
        self._boxes.append(box)
        return box

    async def attached(self, ref: SandboxRef) -> Box:
        """Another channel to a sandbox."""
        box = Box(await self.backend.attach(ref))
        self._boxes.append(box)
        return box

    async def close(self) -> None:
        """Destroy the sandboxes, and see to it that none is left."""
        for box in self._boxes:
            with contextlib.suppress(SandboxLost):
                await box.sandbox.detach()
            await self.backend.destroy(box.sandbox.ref)
        self._boxes.clear()
        left = await self.backend.list(self.owner)
        for ref in left:
            await self.backend.destroy(ref)
        assert left == [], f"the backend still lists {left}"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a backend owes."""

    name: str
    about: str
    run: Callable[[Rig], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a check."""

    check: Check
    verdict: Verdict
    words: str = ""
    """Why it deviates, or how it failed."""


#: All checks by name, in the order in which their modules are imported.
CHECKS: dict[str, Check] = {}


def check(run: Callable[[Rig], Awaitable[None]]) -> Callable[[Rig], Awaitable[None]]:
    """Register a function as a check of its name; its docstring says what it is about."""
    name = run.__name__.replace("_", "-")
    CHECKS[name] = Check(name, (run.__doc__ or "").strip(), run)
    return run


async def examine(
    backend: Backend, profile: Profile, owner: Owner, names: Collection[str] | None = None
) -> AsyncIterator[Finding]:
    """Run the checks, or those of ``names``, one after the other; sandboxes of ``owner`` are destroyed on the way."""
    if not __debug__:
        raise RuntimeError("checks are made of assertions: run them without -O")
    for found in CHECKS.values():
        if names is not None and found.name not in names:
            continue
        if (reason := backend.deviations.get(found.name)) is not None:
            yield Finding(found, "deviates", reason)
            continue
        rig = Rig(backend, profile, owner)
        try:
            async with asyncio.timeout(PATIENCE):
                await found.run(rig)
                await rig.close()
            yield Finding(found, "holds")
        except Exception as error:  # noqa: BLE001 - whatever a check raises is its finding
            with contextlib.suppress(Exception):
                await rig.close()
            yield Finding(found, "fails", f"{type(error).__name__}: {error}".strip())
