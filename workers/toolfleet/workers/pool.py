"""Warm sandboxes, by what they are made of; and the only place that creates or destroys one."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from toolfleet.backends import registry
from toolfleet.backends.base import Backend, Owner, Sandbox
from toolfleet.config.errors import BackendError, SandboxLost
from toolfleet.config.profile import Profile

log = logging.getLogger(__name__)


class WarmPool:
    """Hands out sandboxes: ready ones first, new ones when there is none.

    The ready ones wait beside the slots, not in them: a worker holds at most its slots plus the warm level of every
    profile. Otherwise a fleet that is full, which is when starts hurt most, would never have a warm sandbox. A sandbox
    is used by one trajectory and destroyed after it. ``on_taken`` is called when a ready one was handed out.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        owner: Owner,
        *,
        concurrent_starts: int,
        ttl: float,
        runtime_dir: Path,
        on_taken: Callable[[], None],
    ) -> None:
        self.profiles = profiles
        self.ttl = ttl
        self.warm_hits = 0
        self.cold_starts = 0
        self._owner = owner
        self._runtime_dir = runtime_dir
        self._on_taken = on_taken
        self._starts = asyncio.Semaphore(concurrent_starts)
        self._backends: dict[str, Backend] = {}
        self._ready: dict[str, deque[Sandbox]] = {}
        self._warming: dict[str, int] = {}
        self._destroying: set[asyncio.Task[None]] = set()
        self._closed = False

    async def probe(self) -> None:
        """Make sure that every profile's backend runs here.

        Raises:
            BackendUnavailable: one does not; the message says what to install or allow.
        """
        for profile in self.profiles.values():
            await self._backend(profile).probe()

    def warm(self, profile: Profile) -> int:
        """Ready sandboxes for ``profile``."""
        return len(self._ready.get(profile.spec_hash, ()))

    def ready(self) -> list[Sandbox]:
        """All ready sandboxes."""
        return [sandbox for line in self._ready.values() for sandbox in line]

    async def acquire(self, profile: Profile) -> Sandbox:
        """A sandbox for one trajectory, its runner proven to answer.

        Raises:
            SandboxStartFailed: creation failed; another try may work.
            BackendUnavailable, SpecRefused: another try will not help.
        """
        line = self._ready.get(profile.spec_hash)
        while line:
            sandbox = line.popleft()
            try:
                await sandbox.ping(self.ttl)
            except SandboxLost as error:
                log.warning("a warm sandbox had died: %s", error)
                self.discard(sandbox)
                continue
            self.warm_hits += 1
            self._on_taken()
            return sandbox
        self.cold_starts += 1
        return await self._create(profile)

    def discard(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox beside the caller."""
        self._beside(self.destroy(sandbox))

    async def destroy(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox; what fails is logged, and the sandbox's own end of life is the backstop."""
        try:
            await sandbox.close()
        except Exception:
            log.exception("sandbox %s could not be destroyed", sandbox.ref.id)

    async def refill(self) -> None:
        """Create what is missing to the warm level of every profile."""
        work: list[Coroutine[Any, Any, None]] = []
        for profile in self.profiles.values():
            short = profile.warm - self.warm(profile) - self._warming.get(profile.spec_hash, 0)
            work += [self._add_ready(profile) for _ in range(short)]
        await asyncio.gather(*work)

    async def drop_ready(self, sandbox: Sandbox) -> None:
        """Take a ready sandbox out of the pool and destroy it."""
        for line in self._ready.values():
            if sandbox in line:
                line.remove(sandbox)
                await self.destroy(sandbox)

    async def tidy(self) -> None:
        """Have the backends remove what is provably dead."""
        for backend in self._backends.values():
            await backend.tidy()

    async def close(self) -> None:
        """Destroy every ready sandbox, wait for those on their way out, and let go of the backends."""
        self._closed = True
        for sandbox in self.ready():
            self.discard(sandbox)
        self._ready.clear()
        while self._destroying:
            await asyncio.wait(set(self._destroying))
        for backend in self._backends.values():
            await backend.shutdown()

    def _backend(self, profile: Profile) -> Backend:
        if profile.backend not in self._backends:
            self._backends[profile.backend] = registry.load(profile.backend, self._runtime_dir)
        return self._backends[profile.backend]

    async def _create(self, profile: Profile) -> Sandbox:
        async with self._starts:
            sandbox = await self._backend(profile).create(profile, self._owner)
        try:
            await sandbox.ping(self.ttl)
        except BaseException:
            self.discard(sandbox)
            raise
        return sandbox

    async def _add_ready(self, profile: Profile) -> None:
        key = profile.spec_hash
        self._warming[key] = self._warming.get(key, 0) + 1
        try:
            sandbox = await self._create(profile)
        except BackendError as error:
            log.warning("a warm sandbox could not be made: %s", error)
            return
        finally:
            self._warming[key] -= 1
        if self._closed:
            self.discard(sandbox)
        else:
            self._ready.setdefault(key, deque()).append(sandbox)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._destroying.add(task)
        task.add_done_callback(self._destroying.discard)
