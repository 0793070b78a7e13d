"""Sandboxes by bubblewrap: unprivileged namespaces on this machine, no daemon, a few milliseconds each."""

import asyncio
import contextlib
import functools
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from toolfleet.backends import runtime
from toolfleet.backends.base import Capabilities, Owner, SandboxRef
from toolfleet.backends.cancellation import to_the_end
from toolfleet.backends.channel import Channel, unix
from toolfleet.backends.local import diagnose, launch, layout, place, processes, records
from toolfleet.backends.local.cgroup import MemoryCgroups
from toolfleet.backends.local.images import DEFAULT as DEFAULT_IMAGES
from toolfleet.backends.local.images import Images
from toolfleet.backends.local.processes import Identity
from toolfleet.backends.local.records import Directory, Layer, Record
from toolfleet.backends.local.snapshots import DEFAULT as DEFAULT_SNAPSHOTS
from toolfleet.backends.local.snapshots import Snapshots, longest
from toolfleet.backends.runner.config import Config
from toolfleet.backends.sandbox import RunnerSandbox
from toolfleet.config.errors import BackendUnavailable, SandboxLost, SandboxStartFailed, SpecRefused
from toolfleet.config.profile import MIB, Profile

#: Host users of sandboxes are this number plus 24 bits of the sandbox's id: far from any real user.
FIRST_UID = 0x60000000
#: Seconds until a killed sandbox must be gone, cgroup and all; and until one that was started from a snapshot answers.
_PATIENCE, _RESTORE = 10.0, 600.0

_NOTES = (
    "Commands run as root of a user namespace in which no other user exists: chown to another user fails.",
    "With storage=memory files of a sandbox live in a tmpfs, and the disk limit is memory.",
    "With network=host, abstract unix sockets of the host can be reached.",
)


class BubblewrapBackend:
    """See `toolfleet.backends.base.Backend`.

    Everything that exists of a sandbox is found through its directory ``<runtime_dir>/sandboxes/<id>``; several
    processes and backends may share one ``runtime_dir``.
    """

    name = "bubblewrap"
    deviations: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        runtime_dir: Path,
        *,
        use_cgroups: bool = True,
        images: Path = DEFAULT_IMAGES,
        snapshots: Path = DEFAULT_SNAPSHOTS,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._root = runtime_dir / "sandboxes"
        self._use_cgroups = use_cgroups
        self._images = Images(images)
        self._snapshots = Snapshots(snapshots)
        self._privileged = os.geteuid() == 0

    # -- Backend --------------------------------------------------------------------------------------------------

    async def probe(self) -> Capabilities:
        """See `toolfleet.backends.base.Backend.probe`. The answer is kept for the life of the process."""
        bwrap = diagnose.find_bwrap()
        await asyncio.to_thread(_tried_out, bwrap, FIRST_UID if self._privileged else None)
        await asyncio.to_thread(_bundle, self._runtime_dir)
        groups = await asyncio.to_thread(self._cgroups)
        refused = await asyncio.to_thread(self._images_refused)
        limits = {
            "memory": "cgroup" if groups else "monitor",
            "disk": "tmpfs" if refused else "tmpfs or ext4 image",
            "pids": "rlimit",
        }
        notes = [*_NOTES, _storage_note(refused)]
        if not groups:
            notes.append("No memory cgroup can be made here: memory is checked ten times a second.")
        saved = await asyncio.to_thread(self._snapshots.place, self.name)
        return Capabilities(
            networks=layout.NETWORKS,
            limits=limits,
            attach="host",
            places=frozenset({self._place, saved} - {""}),
            snapshots_at=saved,
            pty=True,
            notes=tuple(notes),
        )

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> RunnerSandbox:
        """See `toolfleet.backends.base.Backend.create`."""
        layout.check(profile)
        archive = None if origin is None else await asyncio.to_thread(self._snapshots.path, origin)
        bwrap = diagnose.find_bwrap()
        directory = Directory(self._root / secrets.token_hex(6))
        ref = SandboxRef(self.name, directory.id, str(directory.socket), self._place)
        try:
            started = await to_the_end(
                asyncio.to_thread(self._start, bwrap, profile, owner, directory, archive), launch.Started.close
            )
            channel = Channel(unix(ref.address), f"sandbox {ref.id}")
            try:
                await (channel.open() if archive is None else _restored(channel, started.runner))
            except SandboxLost as error:
                words = started.words() or str(error)
                kind = BackendUnavailable if diagnose.hopeless(words) else SandboxStartFailed
                raise kind(diagnose.explain(words)) from error
            finally:
                started.close()
        except launch.LaunchFailed as error:
            await self._clean(ref)
            kind = BackendUnavailable if diagnose.hopeless(str(error)) else SandboxStartFailed
            raise kind(diagnose.explain(str(error))) from error
        except OSError as error:
            await self._clean(ref)
            raise SandboxStartFailed(f"cannot start a sandbox: {error}") from error
        except BaseException:
            await self._clean(ref)
            raise
        return RunnerSandbox(ref, channel, self)

    async def attach(self, ref: SandboxRef) -> RunnerSandbox:
        """See `toolfleet.backends.base.Backend.attach`."""
        # By its id: another process may see the same directory under another path.
        address = str(Directory(self._root / Path(ref.id).name).socket)
        channel = Channel(unix(address), f"sandbox {ref.id}")
        await channel.open()
        return RunnerSandbox(replace(ref, address=address), channel, self)

    async def list(self, owner: Owner | None = None) -> "list[SandboxRef]":
        """See `toolfleet.backends.base.Backend.list`. What a sandbox that ended by itself has left is removed."""
        if groups := self._cgroups():
            await asyncio.to_thread(groups.sweep)
        refs = []
        for directory in await asyncio.to_thread(lambda: [*records.directories(self._root)]):
            record = directory.read()
            if record is None:
                continue
            ref = SandboxRef(self.name, directory.id, str(directory.socket), self._place)
            if not directory.live(record):
                await self.destroy(ref)
            elif owner in (None, record.owner):
                refs.append(ref)
        return refs

    async def tidy(self, fleet: str = "") -> None:
        """See `toolfleet.backends.base.Backend.tidy`."""
        await self.list()
        await asyncio.to_thread(self._snapshots.tidy)

    async def destroy(self, ref: SandboxRef) -> None:
        """See `toolfleet.backends.base.Backend.destroy`.

        Raises:
            SandboxLost: its processes do not end; it can be tried again.
        """
        directory = Directory(self._root / Path(ref.id).name)
        record = await asyncio.to_thread(directory.read)
        if record is not None and record.boot == processes.boot_id():
            if not await records.end(record, _PATIENCE):
                raise SandboxLost(f"sandbox {ref.id} does not end", sent=True)
            if record.cgroup is not None and not await MemoryCgroups.removed(Path(record.cgroup), _PATIENCE):
                raise SandboxLost(f"the cgroup {record.cgroup} is still in use", sent=True)
        await asyncio.to_thread(directory.remove)
        processes.reap()

    async def save(self, ref: SandboxRef, name: str) -> str:
        """See `toolfleet.backends.base.Sandbox.snapshot`. Nothing is frozen meanwhile."""
        record = await asyncio.to_thread(Directory(self._root / Path(ref.id).name).read)
        if record is None or record.runner is None or record.layer is None:
            raise SandboxLost(f"the sandbox {ref.id} is gone", sent=False)
        layer = record.layer
        try:
            await self._snapshots.save(
                name, record.runner, overlay=layer.overlay, exclude=layer.exclude, most=longest(layer.disk)
            )
        except OSError as error:
            raise SandboxLost(f"the sandbox {ref.id} cannot be saved: {error}", sent=True) from error
        return name

    async def drop(self, snapshot: str) -> None:
        """See `toolfleet.backends.base.Backend.drop`."""
        try:
            await asyncio.to_thread(self._snapshots.drop, snapshot)
        except OSError as error:
            raise SandboxLost(f"the snapshot {snapshot} cannot be removed: {error}", sent=True) from error

    async def shutdown(self) -> None:
        """See `toolfleet.backends.base.Backend.shutdown`."""
        processes.reap()

    @functools.cached_property
    def _place(self) -> str:
        return place.of_directory(self.name, self._root, processes_too=True)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _start(
        self, bwrap: str, profile: Profile, owner: Owner, directory: Directory, archive: Path | None
    ) -> launch.Started:
        """Everything up to a runner that has its configuration. Blocking."""
        processes.reap()
        on_disk = profile.storage == "disk"
        if on_disk:
            self._images.check()
        bundle = _bundle(self._runtime_dir)
        groups = self._cgroups()
        path = groups.path(directory.id) if groups else None
        config = layout.config(profile, monitor=groups is None)
        record = Record(
            owner,
            profile.spec_hash,
            time.time(),
            processes.boot_id(),
            processes.me(),
            cgroup=None if path is None else str(path),
            layer=Layer(config.disk, config.overlay, [] if config.overlay else config.staged),
        )
        directory.make(record)
        if groups:
            # Files in a tmpfs are memory; the cache of those on a disk can be dropped at any time.
            groups.create(directory.id, (profile.memory_mib + (0 if on_disk else profile.disk_mib)) * MIB)
        plan = replace(self._plan(bwrap, profile, config, directory, bundle, groups), origin=archive)
        with directory.listen() as listener:
            started = launch.launch(plan, listener, lambda monitor: directory.write(replace(record, monitor=monitor)))
        try:
            directory.write(replace(record, runner=started.runner, monitor=started.monitor))
        except BaseException:
            launch.undo(started)
            raise
        return started

    def _plan(
        self,
        bwrap: str,
        profile: Profile,
        config: Config,
        directory: Directory,
        bundle: runtime.Bundle,
        groups: MemoryCgroups | None,
    ) -> launch.Plan:
        rootfs = None if profile.rootfs is None else Path(profile.rootfs)
        view = layout.view(profile, bundle.path, None if self._privileged else rootfs)
        uid = FIRST_UID + int(directory.id[:6], 16) if self._privileged else None
        on_disk = profile.storage == "disk"
        return launch.Plan(
            bwrap=bwrap,
            arguments=[*layout.namespaces(profile.network), *view],
            runtime=layout.RUNTIME,
            bundle=bundle,
            config=config,
            uid=uid,
            cgroups=groups,
            cgroup=groups.path(directory.id) if groups else None,
            rootfs=rootfs if self._privileged else None,
            disk=functools.partial(self._images.mount, profile.disk_mib, uid or 0) if on_disk else None,
        )

    def _images_refused(self) -> SpecRefused | None:
        try:
            self._images.check()
        except SpecRefused as error:
            return error
        return None

    def _cgroups(self) -> MemoryCgroups | None:
        return _found_cgroups() if self._use_cgroups else None

    async def _clean(self, ref: SandboxRef) -> None:
        with contextlib.suppress(SandboxLost):
            await to_the_end(self.destroy(ref))


async def _restored(channel: Channel, runner: Identity) -> None:
    """Open a channel to a runner that has an archive to unpack first.

    Raises:
        SandboxLost: it ended over that, or takes too long.
    """
    ends = time.monotonic() + _RESTORE
    while True:
        try:
            return await channel.open()
        except SandboxLost:
            if not runner.alive or time.monotonic() > ends:
                raise
        await asyncio.sleep(0.1)


def _storage_note(refused: SpecRefused | None) -> str:
    if refused is not None:
        return f"Profiles with storage=disk are refused: {refused}"
    return "With storage=disk files of a sandbox live in an ext4 image, and disk_mib does not count as memory."


@functools.cache
def _tried_out(bwrap: str, uid: int | None) -> None:
    diagnose.try_out(bwrap, uid)


def _bundle(runtime_dir: Path) -> runtime.Bundle:
    bundle = _ensured(runtime_dir)
    if not bundle.path.exists():  # somebody has tidied up
        _ensured.cache_clear()
        bundle = _ensured(runtime_dir)
    return bundle


@functools.cache
def _ensured(runtime_dir: Path) -> runtime.Bundle:
    return runtime.ensure(runtime_dir)


@functools.cache
def _found_cgroups() -> MemoryCgroups | None:
    return MemoryCgroups.find()
