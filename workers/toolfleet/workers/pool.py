"""Warm sandboxes, by what they are made of; and the only place that creates or destroys one."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toolfleet.backends import registry
from toolfleet.backends.base import Backend, Owner, Sandbox, SandboxRef
from toolfleet.config.errors import BackendError, SandboxLost
from toolfleet.config.profile import Profile
from toolfleet.workers.budget import StartBudget

log = logging.getLogger(__name__)


#: Seconds that a runner waits for a word while its sandbox is reset.
_RESET = 300.0


class Ready(NamedTuple):
    """A warm sandbox, and when it was made, by the monotonic clock."""

    sandbox: Sandbox
    since: float


class WarmPool:
    """Hands out sandboxes: ready ones first, new ones when there is none.

    The ready ones wait beside the slots, not in them: a worker holds at most its slots plus the warm level of every
    profile. Otherwise a fleet that is full, which is when starts hurt most, would never have a warm sandbox. A sandbox
    is used by one trajectory and destroyed after it, or reset where its profile asks for that: it comes back only when
    it is proven to be what it was. ``on_taken`` is called when a ready one was handed out.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        owner: Owner,
        *,
        budget: StartBudget,
        ttl: float,
        runtime_dir: Path,
        on_taken: Callable[[], None],
    ) -> None:
        self.profiles = profiles
        self.ttl = ttl
        self.warm_hits = 0
        self.cold_starts = 0
        self.places: set[str] = set()
        """Where the sandboxes are that this worker can attach to; known after `probe`."""
        self._owner = owner
        self._runtime_dir = runtime_dir
        self._on_taken = on_taken
        self._budget = budget
        self._backends: dict[str, Backend] = {}
        self._saves_at: dict[str, str] = {}
        self._ready: dict[str, deque[Ready]] = {}
        self._warming: dict[str, int] = {}
        self._born: dict[str, float] = {}
        """When the sandboxes were made that may come back, by id."""
        self._destroying: set[asyncio.Task[None]] = set()
        self._closed = False

    async def probe(self) -> None:
        """Make sure that every profile's backend runs here.

        Raises:
            BackendUnavailable: one does not; the message says what to install or allow.
        """
        for profile in self.profiles.values():
            capabilities = await self._backend(profile.backend).probe()
            self.places |= capabilities.places
            self._saves_at[profile.backend] = capabilities.snapshots_at

    def warm(self, profile: Profile) -> int:
        """Ready sandboxes for ``profile``."""
        return len(self._ready.get(profile.spec_hash, ()))

    def ready(self) -> list[Sandbox]:
        """All ready sandboxes."""
        return [ready.sandbox for line in self._ready.values() for ready in line]

    async def acquire(self, profile: Profile) -> Sandbox:
        """A sandbox for one trajectory, its runner proven to answer.

        Raises:
            SandboxStartFailed: creation failed; another try may work.
            BackendUnavailable, SpecRefused: another try will not help.
        """
        line = self._ready.get(profile.spec_hash)
        while line:
            sandbox = line.popleft().sandbox
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

    async def copy(self, profile: Profile, snapshot: str) -> Sandbox:
        """A new sandbox for one trajectory that starts from a snapshot.

        Raises:
            SandboxStartFailed: creation failed; another try may work.
            SnapshotLost, BackendUnavailable, SpecRefused: another try will not help.
        """
        self.cold_starts += 1
        return await self._create(profile, snapshot)

    def saves_at(self, profile: Profile) -> str:
        """The place of the snapshots of such sandboxes; empty where none can be made."""
        return self._saves_at.get(profile.backend, "")

    async def drop(self, backend: str, snapshot: str) -> None:
        """Remove a snapshot, by its id or its name.

        Raises:
            BackendError: it is still there; it can be tried again.
        """
        await self._backend(backend).drop(snapshot)

    async def attach(self, ref: SandboxRef, epoch: int) -> Sandbox:
        """Take over a sandbox that another worker made, under ``epoch`` of its lease.

        Raises:
            Fenced: somebody holds it under a higher epoch.
            SandboxLost: it does not answer.
        """
        sandbox = await self._backend(ref.backend).attach(ref)
        try:
            await sandbox.claim(epoch)
            await sandbox.ping(self.ttl)
        except BaseException:
            await sandbox.detach()
            raise
        return sandbox

    def discard(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox beside the caller."""
        self._beside(self.destroy(sandbox))

    def discard_ref(self, ref: SandboxRef) -> None:
        """Destroy a sandbox to which there is no channel, beside the caller."""
        self._beside(self._destroy_ref(ref))

    async def destroy(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox; what fails is logged, and the sandbox's own end of life is the backstop."""
        self._born.pop(sandbox.ref.id, None)
        try:
            await sandbox.close()
        except Exception:
            log.exception("sandbox %s could not be destroyed", sandbox.ref.id)

    async def take_back(self, sandbox: Sandbox, profile: Profile) -> None:
        """Part with a sandbox that has served: destroyed, or reset beside the caller to serve another trajectory."""
        born = self._born.get(sandbox.ref.id)
        known = profile in self.profiles.values()  # for the image of one trajectory nobody would ask again
        if born is None or not known or self._closed or time.monotonic() - born > profile.warm_age:
            await self.destroy(sandbox)
        else:
            self._beside(self._recycle(sandbox, profile, born))

    async def refill(self) -> None:
        """Replace what has waited for too long, and create what is missing to the warm level of every profile."""
        for profile in self.profiles.values():
            self._age_out(profile)
        work: list[Coroutine[Any, Any, None]] = []
        for profile in self.profiles.values():
            short = profile.warm - self.warm(profile) - self._warming.get(profile.spec_hash, 0)
            work += [self._add_ready(profile) for _ in range(short)]
        await asyncio.gather(*work)

    async def drop_ready(self, sandbox: Sandbox) -> None:
        """Take a ready sandbox out of the pool and destroy it."""
        for line in self._ready.values():
            for ready in [ready for ready in line if ready.sandbox is sandbox]:
                line.remove(ready)
                await self.destroy(sandbox)

    async def tidy(self) -> None:
        """Have the backends remove what is provably dead."""
        for backend in self._backends.values():
            await backend.tidy(self._owner.fleet)

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

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            self._backends[name] = registry.load(name, self._runtime_dir)
        return self._backends[name]

    async def _create(self, profile: Profile, origin: str | None = None) -> Sandbox:
        async with self._budget.start(profile):
            sandbox = await self._backend(profile.backend).create(profile, self._owner, origin)
        try:
            await sandbox.ping(self.ttl)
        except BaseException:
            self.discard(sandbox)
            raise
        if profile.reusable and origin is None:
            self._born[sandbox.ref.id] = time.monotonic()
        return sandbox

    async def _recycle(self, sandbox: Sandbox, profile: Profile, born: float) -> None:
        line = self._ready.setdefault(profile.spec_hash, deque())
        try:
            await sandbox.ping(_RESET)
            await sandbox.reset()
            await sandbox.ping(self.ttl)
        except BackendError as error:
            log.info("sandbox %s is used once: %s", sandbox.ref.id, error)
            await self.destroy(sandbox)
            return
        if self._closed or len(line) >= profile.warm + profile.reusable:
            await self.destroy(sandbox)
        else:
            line.append(Ready(sandbox, born))

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
            self._ready.setdefault(key, deque()).append(Ready(sandbox, time.monotonic()))

    def _age_out(self, profile: Profile) -> None:
        line = self._ready.get(profile.spec_hash, deque())
        for ready in [ready for ready in line if time.monotonic() - ready.since > profile.warm_age]:
            line.remove(ready)
            self.discard(ready.sandbox)

    async def _destroy_ref(self, ref: SandboxRef) -> None:
        try:
            await self._backend(ref.backend).destroy(ref)
        except Exception:
            log.exception("sandbox %s could not be destroyed", ref.id)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._destroying.add(task)
        task.add_done_callback(self._destroying.discard)
