"""Saves the workspace of a lease, so that other trajectories start from it."""

import logging

from toolfleet.backends.base import Sandbox
from toolfleet.config.contract import FORK_TIMEOUT, ToolCall, new_id
from toolfleet.config.errors import BackendError, SandboxLost
from toolfleet.config.patience import persist
from toolfleet.config.snapshots import Origin, Saved
from toolfleet.config.state import FleetState
from toolfleet.workers.leases import Lease
from toolfleet.workers.pool import WarmPool

log = logging.getLogger(__name__)


class NotWanted(Exception):
    """The lease is another worker's, or nobody waits for the copy any more."""


class Saver:
    """What a worker does for a call that has children."""

    def __init__(self, boot: str, state: FleetState, pool: WarmPool, patience: float) -> None:
        self._boot = boot
        self._state = state
        self._pool = pool
        self._patience = patience

    async def save(self, lease: Lease, sandbox: Sandbox, call: ToolCall) -> Origin:
        """Save the workspace under a name that the ledger knows before it exists.

        A call that is taken up by another worker is saved anew, under another name: its line has not gone on meanwhile,
        and what an earlier holder may still be saving is none of it.

        Raises:
            NotWanted: there is no use in it any more.
            SpecRefused: such sandboxes cannot be saved.
            SandboxLost: the sandbox is gone.
            BackendError: it was not saved, and the sandbox goes on.
        """
        name = new_id("s").replace("_", "-")
        saved = Saved(lease.profile.backend, "", self._pool.saves_at(lease.profile), lease.profile.spec_hash)
        held = (call, self._boot, lease.epoch, name)
        if not await persist(lambda: self._state.begin_save(*held, saved), self._patience):
            raise NotWanted
        snapshot = await self._snapshot(lease, sandbox, name)
        if not await persist(lambda: self._state.end_save(*held, snapshot), self._patience):
            await self._drop(lease.profile.backend, name, snapshot)
            raise NotWanted
        return Origin(name, saved.place)

    async def _snapshot(self, lease: Lease, sandbox: Sandbox, name: str) -> str:
        lease.saving = True
        try:
            # A backend may hold the sandbox still, and its runner's clock goes on: it hears nothing until that is over.
            await sandbox.ping(FORK_TIMEOUT + self._pool.ttl)
            try:
                return await sandbox.snapshot(name)
            except SandboxLost as error:
                lost = error
            await sandbox.ping(self._pool.ttl)
            raise BackendError(str(lost)) from lost
        finally:
            lease.saving = False

    async def tidy(self, *, leaving: bool = False) -> None:
        """Drop what nobody wants any more, whoever saved it; when ``leaving``, also what others may be dropping."""
        for unwanted in await self._state.due_snapshots(self._pool.places, leaving=leaving):
            await self._drop(unwanted.backend, unwanted.name, unwanted.id or unwanted.name)

    async def _drop(self, backend: str, name: str, snapshot: str) -> None:
        try:
            await self._pool.drop(backend, snapshot)
        except BackendError as error:
            log.warning("snapshot %s is tried again later: %s", name, error)
        else:
            await persist(lambda: self._state.dropped(name), self._patience)
