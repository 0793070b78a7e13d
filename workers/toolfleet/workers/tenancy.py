"""What a worker does with a lease as a whole: take it up, furnish it, part with its sandbox, hand it over.

Every sandbox of a lease is noted in Redis, so that another worker that reaches it can go on with it. Nobody therefore
destroys one without asking there first: it may be somebody else's by now.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from toolfleet.backends.base import Request, Sandbox, SandboxRef
from toolfleet.backends.channel import Fenced
from toolfleet.config.answers import Holder
from toolfleet.config.connection import OUTAGES
from toolfleet.config.contract import new_id
from toolfleet.config.errors import BackendError, SandboxLost, SandboxStartFailed, SnapshotLost, SpecRefused
from toolfleet.config.patience import persist
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.workers.leases import Lease
from toolfleet.workers.pool import WarmPool

log = logging.getLogger(__name__)

#: Seconds that unpacking one set-up archive may take.
SETUP_TIMEOUT = 300.0


class HeldElsewhere(Exception):
    """The lease is another worker's."""


class Tenancy:
    """The leases of one worker process, towards Redis and towards the pool."""

    def __init__(self, worker_id: str, boot: str, state: FleetState, pool: WarmPool, settings: Settings) -> None:
        self.patience = 3 * settings.lease_ttl
        """Seconds that Redis may stay away before something is done without it."""
        self._worker_id = worker_id
        self._boot = boot
        self._state = state
        self._pool = pool
        self.retries = settings.retries

    async def take_up(self, lease: Lease) -> list[str]:
        """Learn what a lease is, and go on with the workspace of an earlier holder; needs the lease's lock.

        Returns the ids of the calls that an earlier holder started and nobody has ended.

        Raises:
            HeldElsewhere: it is not ours any more.
        """
        claim = await persist(lambda: self._state.claim(lease.trajectory_id, self._boot, lease.epoch), self.patience)
        if claim is None:
            raise HeldElsewhere
        lease.profile_name, lease.sweep, lease.producer = claim.profile, claim.sweep, claim.producer
        lease.beginning, lease.generation, lease.lost, lease.used = (
            claim.beginning, claim.generation, claim.lost, claim.used,
        )  # fmt: skip
        lease.profile = _chosen(self._pool.profiles.get(claim.profile, lease.profile), claim.beginning.image)
        lease.origin = claim.origin
        lease.born = time.monotonic() - claim.age
        if claim.sandbox is not None:
            await self._attach(lease, SandboxRef(**claim.sandbox))
        lease.claimed = True
        return claim.started

    async def furnish(self, lease: Lease, on_retry: Callable[[RetryCallState], None]) -> int:
        """Give a lease its sandbox; how many attempts it took. Needs the lease's lock.

        Raises:
            HeldElsewhere: the lease is not ours any more.
            SnapshotLost: the workspace cannot be the copy that it was to be, see `forsake`.
            BackendError: there is no sandbox, and the retries are used up.
        """
        attempts = 0
        async for attempt in self._retrying(on_retry):
            with attempt:
                attempts = attempt.retry_state.attempt_number
                sandbox = await self._prepared(lease)
        try:
            generation = await persist(
                lambda: self._state.furnish(lease.trajectory_id, self._boot, lease.epoch, asdict(sandbox.ref)),
                self.patience,
            )
        except OUTAGES as error:
            self._pool.discard(sandbox)
            raise BackendError(f"Redis did not answer: {error}") from None
        if not generation:
            self._pool.discard(sandbox)
            raise HeldElsewhere
        lease.sandbox, lease.generation = sandbox, max(lease.generation, generation)
        if lease.origin:
            lease.origin, lease.used = "", True
        return attempts

    async def forsake(self, lease: Lease, cause: str) -> None:
        """The snapshot of a lease is gone: its loss is told by the next reply. Needs the lease's lock.

        Raises:
            HeldElsewhere: the lease is not ours any more.
        """
        generation = await persist(
            lambda: self._state.forsake(lease.trajectory_id, self._boot, lease.epoch, cause), self.patience
        )
        if not generation:
            raise HeldElsewhere
        lease.origin, lease.lost, lease.generation = "", cause, generation

    async def part(self, lease: Lease, sandbox: Sandbox, cause: str, *, patience: float | None = None) -> None:
        """Give up a sandbox of a lease. It is destroyed beside the caller, unless another worker goes on with it."""
        mine = await self._renounced(lease, sandbox.ref, cause, self.patience if patience is None else patience)
        # One that may serve another trajectory is left to its runner: whom we have lost may be somebody else's by now.
        if mine and not lease.profile.reusable:
            self._pool.discard(sandbox)
        else:
            await sandbox.detach()

    async def vacate(self, lease: Lease, patience: float) -> None:
        """Give up the sandbox of a lease that ends, and wait until it is gone or left to its next holder."""
        async with lease.lock:
            sandbox, lease.sandbox = lease.sandbox, None
            if sandbox is None:
                return
            if await self._renounced(lease, sandbox.ref, "the lease ended", patience):
                await self._pool.take_back(sandbox, lease.profile)
            else:
                await sandbox.detach()

    async def hand_over(self, lease: Lease) -> bool:
        """Have another worker go on with the workspace; False when none can."""
        holder = Holder(self._worker_id, self._boot, lease.epoch)
        return await persist(lambda: self._state.hand_over(lease.trajectory_id, holder), self.patience)

    async def announce(self, lease: Lease) -> bool:
        """Tell a Redis that has lost its state of a lease; False when it is not ours any more."""
        async with lease.lock:
            if not lease.claimed:
                return False
            ref = lease.sandbox.ref if lease.sandbox else None
            fields: dict[str, str | int] = {
                "producer": lease.producer,
                "profile": lease.profile_name,
                "sweep": lease.sweep,
                "setup": lease.beginning.model_dump_json(),
                "generation": lease.generation,
                "lost": lease.lost,
                "used": int(lease.used),
                **({"origin": lease.origin} if lease.origin else {}),
                "sandbox": json.dumps(asdict(ref)) if ref else "",
                "sandbox_id": ref.id if ref else "",
                "place": ref.place if ref else "",
            }
            holder = Holder(self._worker_id, self._boot, lease.epoch)
            age = time.monotonic() - lease.born
            return await persist(lambda: self._state.announce(lease.trajectory_id, holder, fields, age), self.patience)

    # -- inside

    async def _attach(self, lease: Lease, ref: SandboxRef) -> None:
        try:
            lease.sandbox = await self._pool.attach(ref, lease.epoch)
        except Fenced:
            raise HeldElsewhere from None
        except SandboxLost as error:
            cause = f"its worker is gone, and so is the sandbox: {error}"
            if await self._renounced(lease, ref, cause, self.patience) and not lease.profile.reusable:
                self._pool.discard_ref(ref)
            if lease.used:
                lease.lost = cause
            lease.used = False

    async def _renounced(self, lease: Lease, ref: SandboxRef, cause: str, patience: float) -> bool:
        """Whether the sandbox is to be destroyed; without an answer it is left, and its runner ends it if need be."""
        try:
            found = await persist(
                lambda: self._state.renounce(
                    lease.trajectory_id, self._boot, lease.epoch, ref.id, cause, reused=lease.profile.reusable > 0
                ),
                patience,
            )
        except OUTAGES as error:
            log.warning("sandbox %s is left to its runner, for Redis does not answer: %s", ref.id, error)
            return False
        lease.generation = max(lease.generation, found.generation)
        return found.destroy

    async def _prepared(self, lease: Lease) -> Sandbox:
        """A sandbox with the set-up of the trajectory unpacked in it."""
        sandbox = await (self._copied(lease) if lease.origin else self._pool.acquire(lease.profile))
        try:
            await sandbox.claim(lease.epoch)
            for step in lease.beginning.setup:
                content = await persist(partial(self._state.blob, step.archive), self.patience)
                if content is None:
                    raise BackendError(f"the set-up archive {step.archive[:12]} is not in Redis any more")
                request = Request(new_id("setup"), "unpack", {"dest": step.dest}, SETUP_TIMEOUT, content)
                outcome = await sandbox.run(request)
                if outcome.error or outcome.exit_code:
                    raise BackendError(f"set-up failed: {outcome.error or outcome.stderr.decode(errors='replace')}")
        except SandboxLost as error:
            self._pool.discard(sandbox)
            raise SandboxStartFailed(f"the sandbox died during set-up: {error}") from None
        except BaseException:
            self._pool.discard(sandbox)
            raise
        return sandbox

    async def _copied(self, lease: Lease) -> Sandbox:
        saved = await persist(lambda: self._state.saved(lease.origin, lease.trajectory_id), self.patience)
        if saved is None:
            raise SnapshotLost("the workspace that this one was to be a copy of is not kept any more")
        if saved.place not in self._pool.places:
            raise SnapshotLost("no live worker reaches the workspace that this one was to be a copy of")
        if saved.spec != lease.profile.spec_hash:
            raise SpecRefused(f"the profile {lease.profile_name!r} is not what it was when the workspace was saved")
        return await self._pool.copy(lease.profile, saved.id)

    def _retrying(self, on_retry: Callable[[RetryCallState], None]) -> AsyncRetrying:
        rules = self.retries
        return AsyncRetrying(
            retry=retry_if_exception_type(SandboxStartFailed),
            stop=stop_after_attempt(rules.max + 1),
            wait=wait_exponential(multiplier=rules.base, max=rules.cap) + wait_random(0, rules.jitter),
            before_sleep=on_retry,
            reraise=True,
        )


def _chosen(profile: Profile, image: str | None) -> Profile:
    """``profile`` with another image, where the trajectory names one."""
    return profile if image is None else profile.model_copy(update={"image": image})
