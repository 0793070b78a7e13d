"""Sandboxes on MorphCloud: one VM each, found again by its metadata, reached over SSH, ended by its time to live."""

import asyncio
import functools
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from toolfleet.backends import runtime
from toolfleet.backends.base import Capabilities, Owner, SandboxRef
from toolfleet.backends.cancellation import to_the_end
from toolfleet.backends.local import place
from toolfleet.backends.morphvm import install, spec
from toolfleet.backends.morphvm.account import PATIENCE, Account, Gone, Passing, Refused
from toolfleet.backends.morphvm.prepared import Prepared
from toolfleet.backends.morphvm.sandbox import MorphSandbox
from toolfleet.config.errors import (
    BackendError,
    BackendUnavailable,
    SandboxLost,
    SandboxStartFailed,
    SnapshotLost,
    SpecRefused,
)
from toolfleet.config.options import MorphOptions
from toolfleet.config.patience import persist
from toolfleet.config.profile import MIB, Profile

log = logging.getLogger(__name__)

#: Seconds for which the first way into a new VM is sought: its SSH may come up after it is called ready.
_FIRST_WAY_IN = 30.0

#: What the ids of MorphCloud's snapshots begin with.
_SNAPSHOT = "snapshot_"

_DISK = "the limit is the VM's disk, whose size comes with its snapshot; a lower one is refused"
_NOTES = (
    "A sandbox is a VM, and its commands are root in it: what sets out to can end the runner, and loses this sandbox.",
    "Memory and pids are limited inside the VM, by cgroup v2; a command that sets out to, as root, can undo it.",
    "disk_mib must be at least the size of the VM's disk, which is the limit. Every VM has the internet.",
    "When its worker has died, a runner ends its commands; the VM ends at its time to live, or with its destruction.",
)


class MorphBackend:
    """See `toolfleet.backends.base.Backend`. All that exists of a sandbox is its VM; this object only connects."""

    name = "morph"
    deviations: ClassVar[Mapping[str, str]] = {
        "the-disk-limit-holds": _DISK,
        "the-number-of-files-is-limited": _DISK,
        "without-a-network-there-is-only-loopback": "every VM has the internet; a profile without a network is refused",
        "commands-have-no-privileges": "commands are root of the VM, which is the wall around them",
        "a-sandbox-that-nobody-pings-ends-itself": "its runner and commands end; the VM does at its time to live",
    }

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._account = Account()
        self._prepared: Prepared | None = None

    # -- Backend --------------------------------------------------------------------------------------------------

    async def probe(self) -> Capabilities:
        """See `toolfleet.backends.base.Backend.probe`."""
        await self._bundle()
        try:
            await self._account.instances({spec.KIND: "nobody"})
            where = await self._place()
        except (Passing, Refused, Gone) as error:
            raise BackendUnavailable(f"MorphCloud does not serve this machine: {error}") from error
        return Capabilities(
            networks=spec.NETWORKS,
            limits={
                "memory": "cgroup or monitor",
                "pids": "cgroup or rlimit",
                "disk": "size of VM",
                "cpu": "size of VM",
            },
            attach="anywhere",
            places=frozenset({where}),
            snapshots_at=where,
            pty=True,
            notes=_NOTES,
        )

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> MorphSandbox:
        """See `toolfleet.backends.base.Backend.create`."""
        image = spec.check(profile)
        await self._account.client()
        attempt = secrets.token_hex(8)
        try:
            return await self._create(profile, owner, origin, image, attempt)
        except BaseException as error:
            await to_the_end(self._clear(attempt))
            raise _told(error, image, origin) from error

    async def attach(self, ref: SandboxRef) -> MorphSandbox:
        """See `toolfleet.backends.base.Backend.attach`."""
        try:
            instance = await self._account.instance(ref.id)
        except (Gone, Passing, Refused) as error:
            raise SandboxLost(f"sandbox {ref.id} is gone: {error}", sent=False) from error
        sandbox = await self._sandbox(ref, spec.options(instance), 0)
        try:
            await sandbox.open()
        except BaseException:
            await sandbox.detach()
            raise
        return sandbox

    async def list(self, owner: Owner | None = None) -> "list[SandboxRef]":
        """See `toolfleet.backends.base.Backend.list`; of the whole account, wherever its workers are.

        Raises:
            SandboxLost: MorphCloud does not answer.
        """
        try:
            instances, where = await self._account.instances(spec.owned_by(owner)), await self._place()
        except (Gone, Passing, Refused) as error:
            raise SandboxLost(f"the VMs cannot be listed: {error}", sent=False) from error
        for instance in instances:
            if instance.status == "error" and owner is not None:
                await self.destroy(spec.ref(instance, where))
        return [spec.ref(instance, where) for instance in instances if instance.status != "error"]

    async def tidy(self, fleet: str = "") -> None:
        """See `toolfleet.backends.base.Backend.tidy`. There is nothing to do: every VM has a time to live."""

    async def destroy(self, ref: SandboxRef) -> None:
        """See `toolfleet.backends.base.Backend.destroy`.

        Raises:
            SandboxLost: MorphCloud cannot be told; it can be tried again, and the VM has a time to live.
        """
        try:
            await self._account.stop(ref.id)
        except (Passing, Refused) as error:
            raise SandboxLost(f"sandbox {ref.id} cannot be ended now: {error}", sent=True) from error

    async def save(self, ref: SandboxRef, name: str) -> str:
        """See `toolfleet.backends.base.Sandbox.snapshot`."""
        try:
            instance = await self._account.instance(ref.id)
            options = spec.options(instance)
            saved = await self._account.save(ref.id, None, spec.of_snapshot(instance, name), options.snapshot_ttl)
            await self._account.saved(saved.id, options.start_timeout)
            await self._account.ready(ref.id, options.start_timeout)
        except Gone as error:
            raise SandboxLost(f"sandbox {ref.id} is gone: {error}", sent=True) from error
        except Passing as error:
            raise SandboxStartFailed(f"sandbox {ref.id} could not be saved: {error}") from error
        except Refused as error:
            raise SpecRefused(f"sandbox {ref.id} cannot be saved: {error}") from error
        return saved.id

    async def drop(self, snapshot: str) -> None:
        """See `toolfleet.backends.base.Backend.drop`.

        Raises:
            SandboxLost: MorphCloud cannot be told; it can be tried again, and the snapshot has a time to live.
        """
        try:
            known = snapshot.startswith(_SNAPSHOT)
            for found in [snapshot] if known else await self._account.named(spec.NAME, snapshot):
                await self._account.delete(found)
        except (Passing, Refused) as error:
            raise SandboxLost(f"snapshot {snapshot} cannot be removed now: {error}", sent=True) from error

    async def shutdown(self) -> None:
        """See `toolfleet.backends.base.Backend.shutdown`."""
        await self._account.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _place(self) -> str:
        """Whoever has the key of the account can reach every VM in it."""
        client = await self._account.client()
        return place.of(self.name, (client.base_url, client.api_key))

    async def _create(
        self, profile: Profile, owner: Owner, origin: str | None, image: str, attempt: str
    ) -> MorphSandbox:
        options = profile.morph
        bundle = await self._bundle()
        if self._prepared is None:
            self._prepared = Prepared(self._account, bundle.path.name)
        prepared = self._prepared if origin is None and options.prepared_ttl else None
        name = await self._start(prepared, origin or image, spec.body(profile, owner, attempt), options.prepared_ttl)
        instance = await self._account.ready(name, options.start_timeout)
        spec.check_size(profile, instance)
        sandbox = await self._sandbox(spec.ref(instance, await self._place()), options, spec.first_ttl(options))
        try:
            look = functools.partial(install.look, sandbox.login, bundle, profile.memory_mib * MIB, profile.pids)
            limits, there = await persist(look, _FIRST_WAY_IN, (OSError,))
            if not there:
                await install.upload(sandbox.login, bundle)
                if prepared is not None and await prepared.offer(image, name, options.prepared_ttl):
                    await self._account.ready(name, options.start_timeout)
            config, address = spec.config(profile, limits), sandbox.ref.address
            await install.start(sandbox.login, bundle, limits, address, config, await self._secret(address))
            await sandbox.open()
        except BaseException:
            await sandbox.detach()
            raise
        return sandbox

    async def _start(self, prepared: Prepared | None, source: str, body: dict[str, object], ttl: int) -> str:
        """Begin to make a VM from ``source``, or what has been prepared of it; return its id."""
        if prepared is not None:
            better = await prepared.find(source, ttl)
            try:
                return (await self._account.start(better, body)).id
            except Gone:
                if not prepared.forget(source):
                    raise
        return (await self._account.start(source, body)).id

    async def _sandbox(self, ref: SandboxRef, options: MorphOptions, ttl: int) -> MorphSandbox:
        return MorphSandbox(ref, options, ttl, self._account, await self._secret(ref.address), self)

    async def _secret(self, address: str) -> bytes:
        return spec.secret((await self._account.client()).api_key or "", address)

    async def _bundle(self) -> runtime.Bundle:
        return await asyncio.to_thread(runtime.ensure, self._runtime_dir)

    async def _clear(self, attempt: str) -> None:
        """Remove what an attempt has made, of which the answer may have been lost."""
        try:
            async with asyncio.timeout(2 * PATIENCE):
                for instance in await self._account.instances({spec.ATTEMPT: attempt}):
                    await self._account.stop(instance.id)
        except (BackendError, Gone, Passing, Refused, TimeoutError) as error:
            log.warning("a VM of a failed start may live on until its time to live ends: %s", error)


def _told(error: BaseException, image: str, origin: str | None) -> BaseException:
    """An error of a start, as a backend tells it."""
    if isinstance(error, Gone):
        kind = SpecRefused if origin is None else SnapshotLost
        return kind(f"no sandbox can be started from the snapshot {origin or image!r}: {error}")
    if isinstance(error, Refused):
        return SpecRefused(f"no sandbox can be started: {error}")
    if isinstance(error, Passing | OSError | SandboxLost):
        return SandboxStartFailed(f"cannot start a sandbox: {error}")
    return error
