"""The fleet's budget for starting sandboxes: how many at once, how many a second, and when to leave it be."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator

from toolfleet.config.connection import OUTAGES
from toolfleet.config.contract import new_id
from toolfleet.config.errors import SandboxStartFailed
from toolfleet.config.profile import Profile
from toolfleet.config.state import FleetState

log = logging.getLogger(__name__)

#: Seconds after which a start that its worker never ended counts no more.
FORGOTTEN_AFTER = 600.0


class StartBudget:
    """Asked before each start; what a profile does not bound costs nothing but the breaker's look."""

    def __init__(self, state: FleetState, concurrent: int, patience: float) -> None:
        self._state = state
        self._concurrent = concurrent
        self._here: dict[str, asyncio.Semaphore] = {}
        """By backend: while one engine or cloud hangs, the starts of others go on."""
        self._patience = patience

    @contextlib.asynccontextmanager
    async def start(self, profile: Profile) -> AsyncIterator[None]:
        """Around one start: waits for its turn, and learns from how it ends.

        Raises:
            SandboxStartFailed: starts of this kind fail in a row, or its turn did not come in time.
        """
        spec, attempt = profile.spec_hash, new_id("start")
        here = self._here.setdefault(profile.backend, asyncio.Semaphore(self._concurrent))
        async with here:
            await self._wait(profile, spec, attempt)
            ok = False
            try:
                yield
                ok = True
            except SandboxStartFailed:
                raise
            except BaseException:
                ok = True  # refused, or given up by whoever wanted it: another start may well succeed
                raise
            finally:
                await self._report(spec, attempt, ok)

    async def _wait(self, profile: Profile, spec: str, attempt: str) -> None:
        ends = time.monotonic() + self._patience
        while True:
            verdict, seconds = await self._ask(profile, spec, attempt)
            if verdict == "go":
                return
            if verdict == "open":
                raise SandboxStartFailed(f"such sandboxes fail to start in a row; the next try is in {seconds:.0f} s")
            if time.monotonic() + seconds > ends:
                raise SandboxStartFailed(
                    f"no turn came within {self._patience:g} s: of such sandboxes the fleet starts "
                    f"{profile.fleet_starting or 'any number'} at once and {profile.fleet_start_rate or 'any number'} "
                    "a second; raise fleet_starting or fleet_start_rate"
                )
            # Jitter keeps those who wait from asking in step.
            await asyncio.sleep(seconds * random.uniform(1.0, 1.5))  # noqa: S311

    async def _ask(self, profile: Profile, spec: str, attempt: str) -> tuple[str, float]:
        try:
            return await self._state.begin_start(
                spec, attempt, most=profile.fleet_starting, rate=profile.fleet_start_rate, ttl=FORGOTTEN_AFTER
            )
        except OUTAGES as error:
            raise SandboxStartFailed(f"Redis did not answer: {error}") from None

    async def _report(self, spec: str, attempt: str, ok: bool) -> None:
        try:
            pause = await self._state.end_start(spec, attempt, ok=ok)
        except OUTAGES as error:
            log.warning("the end of a start could not be reported: %s", error)
            return
        if pause:
            log.warning("sandboxes of spec %s fail to start in a row; nobody tries for %.0f s", spec, pause)
