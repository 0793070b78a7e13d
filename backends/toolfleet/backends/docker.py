"""Sandboxes by a Docker engine, on this machine or on another one."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_exponential

from toolfleet.backends import runtime
from toolfleet.backends.base import Capabilities, Owner, SandboxRef
from toolfleet.backends.cancellation import to_the_end
from toolfleet.backends.channel import Channel
from toolfleet.backends.engine import labels, spec, volume
from toolfleet.backends.engine.client import Conflict, Engine, EngineError, EngineGone, NotFound
from toolfleet.backends.engine.images import Image, Images
from toolfleet.backends.engine.networks import ensure_network, remove_networks
from toolfleet.backends.engine.spec import Facts
from toolfleet.backends.engine.start import StartFailed, start
from toolfleet.backends.engine.ways import ByRelay, BySocket, Reach, Way, kept_secret
from toolfleet.backends.local import place, processes, records
from toolfleet.backends.local.records import Directory, Record
from toolfleet.backends.sandbox import RunnerSandbox
from toolfleet.config.errors import BackendUnavailable, SandboxLost, SandboxStartFailed, SpecRefused
from toolfleet.config.profile import Profile

#: Seconds until a killed container must be gone, and that saving one may take.
_PATIENCE, _SAVE_WITHIN = 30.0, 600.0
_SNAPSHOTS = "toolfleet-snapshot"
#: Seconds after which a container that was not started never will be: three times what a start may take.
_HALF_MADE = 600.0
#: Written into a sandbox's directory when its container has been started.
_STARTED = "started"


class DockerBackend:
    """See `toolfleet.backends.base.Backend`.

    Containers are found by their labels, whoever has made them. ``<runtime_dir>/docker/<id>`` holds what this machine
    keeps of a sandbox: the socket of its runner, or the secret of its channel.
    """

    name = "docker"
    deviations: ClassVar[Mapping[str, str]] = {
        "file-operations-have-a-reserve-of-processes": (
            "users are shared by all containers, so only the cgroup can count processes, and it keeps no reserve"
        )
    }

    def __init__(self, runtime_dir: Path, *, half_made: float = _HALF_MADE) -> None:
        self._runtime_dir = runtime_dir
        self._half_made = half_made
        self._root = runtime_dir / "docker"
        self._host = socket.gethostname()
        self._engine = Engine()
        self._images = Images(self._engine)
        self._known: Facts | None = None
        self._volume: str | None = None
        self._filling = asyncio.Lock()

    # -- Backend --------------------------------------------------------------------------------------------------

    async def probe(self) -> Capabilities:
        """See `toolfleet.backends.base.Backend.probe`."""
        try:
            facts = await self._facts()
            local = (await self._engine.endpoint()).local
            await self._engine.call(lambda client: client.containers(limit=1))
        except (EngineError, EngineGone) as error:
            raise BackendUnavailable(await self._unavailable(error)) from error
        await asyncio.to_thread(runtime.ensure, self._runtime_dir)
        by_hand, anywhere = self._places(facts)
        capabilities = facts.capabilities(local=local, places=frozenset({by_hand, anywhere}))
        return replace(capabilities, snapshots_at=anywhere)

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> RunnerSandbox:
        """See `toolfleet.backends.base.Backend.create`."""
        try:
            facts = await self._facts()
            name = spec.check(profile, facts)
            if origin is None:
                image = await self._images.ensure(name, pull=profile.docker.pull == "missing")
            else:
                image = await self._images.saved(origin)
            if profile.network in spec.NETWORKS:
                await ensure_network(self._engine, profile.network)
        except (EngineError, EngineGone) as error:
            raise SandboxStartFailed(await self._unavailable(error)) from error
        directory = Directory(self._root / secrets.token_hex(6))
        ref = SandboxRef(self.name, directory.id, "", "")
        try:
            ref = await to_the_end(self._start(profile, facts, image, owner, directory, origin or ""))
            return await self._open(ref)
        except (StartFailed, EngineError) as error:
            await self._clean(ref)
            refusal = spec.refusal(profile, str(error), facts)
            raise SpecRefused(refusal) if refusal else SandboxStartFailed(f"cannot start a sandbox: {error}") from error
        except (EngineGone, OSError, SandboxLost) as error:
            await self._clean(ref)
            raise SandboxStartFailed(f"cannot start a sandbox: {error}") from error
        except BaseException:
            await self._clean(ref)
            raise

    async def attach(self, ref: SandboxRef) -> RunnerSandbox:
        """See `toolfleet.backends.base.Backend.attach`."""
        return await self._open(ref)

    async def list(self, owner: Owner | None = None) -> "list[SandboxRef]":
        """See `toolfleet.backends.base.Backend.list`.

        What is provably dead is removed when it is ``owner``'s or has a directory here, so that no worker tidies up
        after those of other machines or runtime directories.

        Raises:
            SandboxLost: the engine does not answer.
        """
        wanted = [labels.ID, *(labels.of(owner) if owner is not None else ())]
        # Before the engine is asked: what is started later has a container later.
        directories = await asyncio.to_thread(lambda: [*records.directories(self._root)])
        try:
            containers = await self._engine.call(lambda client: client.containers(all=True, filters={"label": wanted}))
        except (EngineError, EngineGone) as error:
            raise SandboxLost(await self._unavailable(error), sent=False) from error
        here = {directory.id: directory for directory in directories}
        refs = []
        for container in containers:
            ref = labels.ref(self.name, container["Labels"])
            directory = here.pop(ref.id, None)
            half_made = container["State"] == "created" and labels.abandoned(container["Labels"], self._host)
            if container["State"] in ("running", "paused"):
                refs.append(ref)
            elif (half_made or container["State"] in ("exited", "dead")) and (owner is not None or directory):
                await self.destroy(ref)
        for directory in here.values():
            await asyncio.to_thread(_sweep, directory, owner)
        return refs

    async def tidy(self, fleet: str = "") -> None:
        """See `toolfleet.backends.base.Backend.tidy`.

        A container that was made and not started in all that time is nobody's: whoever makes one starts it at once or
        removes it, and one that comes back to it later is told that it is gone. Its age is by the engine's own clock.
        """
        await self.list()
        wanted = {"label": [labels.ID, f"{labels.FLEET}={fleet}"], "status": ["created"]}
        try:
            made = await self._engine.call(lambda client: client.containers(all=True, filters=wanted))
            now = _clock(await self._engine.call(lambda client: client.info())) if made else 0.0
        except (EngineError, EngineGone) as error:
            raise SandboxLost(await self._unavailable(error), sent=False) from error
        for container in made:
            if now - container["Created"] >= self._half_made:
                await self.destroy(labels.ref(self.name, container["Labels"]))

    async def destroy(self, ref: SandboxRef) -> None:
        """See `toolfleet.backends.base.Backend.destroy`.

        Raises:
            SandboxLost: the engine does not end it; it can be tried again.
        """
        name = labels.container(Path(ref.id).name)
        try:
            snapshot = await self._remove(name)
            if snapshot is not None:
                await self._remove_unnamed(snapshot)
        except (EngineError, EngineGone, RetryError) as error:
            raise SandboxLost(f"sandbox {ref.id} does not end: {error}", sent=True) from error
        await asyncio.to_thread(Directory(self._root / Path(ref.id).name).remove)

    async def save(self, ref: SandboxRef, name: str) -> str:
        """See `toolfleet.backends.base.Sandbox.snapshot`."""
        container = labels.container(ref.id)
        try:
            found = await self._engine.call(lambda client: client.inspect_container(container))
            if found["Config"]["Labels"].get(labels.STORAGE) == "memory":
                raise SpecRefused('files in memory cannot be saved: a profile to be forked needs storage = "disk"')
            await self._engine.call(lambda client: client.commit(container, _SNAPSHOTS, name), _SAVE_WITHIN)
        except NotFound as error:
            raise SandboxLost(f"the sandbox {ref.id} is gone", sent=False) from error
        except (EngineError, EngineGone) as error:
            raise SandboxLost(f"the sandbox {ref.id} cannot be saved: {error}", sent=True) from error
        return _image(name)

    async def drop(self, snapshot: str) -> None:
        """See `toolfleet.backends.base.Backend.drop`.

        The image of a sandbox that was started from it loses its name only, and goes with the last such sandbox.
        """
        try:
            await self._engine.call(lambda client: client.remove_image(_image(snapshot), force=True))
        except NotFound:
            return
        except (EngineError, EngineGone) as error:
            raise SandboxLost(f"the snapshot {snapshot} cannot be removed: {error}", sent=True) from error

    async def shutdown(self) -> None:
        """See `toolfleet.backends.base.Backend.shutdown`."""
        with contextlib.suppress(EngineError, EngineGone, BackendUnavailable):
            await remove_networks(self._engine)
        await self._engine.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _facts(self) -> Facts:
        if self._known is None:
            self._known = Facts.of(await self._engine.call(lambda client: client.info()))
        return self._known

    def _places(self, facts: Facts) -> tuple[str, str]:
        """Of sandboxes reached through a socket in our directory, and of those reached through the engine."""
        return place.of_directory(self.name, self._root, processes_too=False), place.of(self.name, facts.engine)

    async def _start(
        self, profile: Profile, facts: Facts, image: Image, owner: Owner, directory: Directory, origin: str
    ) -> SandboxRef:
        bundle = await asyncio.to_thread(runtime.ensure, self._runtime_dir)
        await asyncio.to_thread(_record, directory, owner, profile)
        local = (await self._engine.endpoint()).local
        interpreter = str(bundle.path) if local else await self._interpreter(bundle, image)
        by_socket = profile.docker.transport != "relay" and local and facts.native(profile)
        if profile.docker.transport == "socket" and not by_socket:
            raise SpecRefused('docker.transport = "socket" needs an engine on this machine and a runtime like runc')
        by_hand, anywhere = self._places(facts)
        make = BySocket if by_socket else ByRelay
        way: Way = await asyncio.to_thread(make, directory, bundle, [f"{interpreter}:{spec.RUNTIME}:ro"])
        ref = SandboxRef(self.name, directory.id, way.address, by_hand if by_socket else anywhere, way.secret)
        user = spec.user(profile, image)
        arguments = {
            "image": image.id,
            "command": [],
            "user": user,
            "hostname": "sandbox",
            "working_dir": "/",
            "healthcheck": {"test": ["NONE"]},
            "labels": {
                labels.ID: ref.id,
                labels.FLEET: owner.fleet,
                labels.WORKER: owner.worker_id,
                labels.SPEC: profile.spec_hash,
                labels.ADDRESS: ref.address,
                labels.PLACE: ref.place,
                labels.ORIGIN: origin,
                labels.STORAGE: profile.storage,
                labels.CREATOR: labels.creator(self._host),
            },
            "host_config": spec.host_config(profile, way.binds, helpers=way.helpers),
        }
        try:
            await start(self._engine, labels.container(ref.id), arguments, way, spec.config(profile, user))
        finally:
            way.close()
        await asyncio.to_thread((directory.path / _STARTED).touch)
        return ref

    async def _interpreter(self, bundle: runtime.Bundle, image: Image) -> str:
        async with self._filling:
            if self._volume is None:
                self._volume = await volume.ensure(self._engine, bundle, image.id)
            return self._volume

    async def _open(self, ref: SandboxRef) -> RunnerSandbox:
        secret = ref.secret or await asyncio.to_thread(kept_secret, Directory(self._root / Path(ref.id).name))
        reach = Reach(self._engine, labels.container(ref.id), ref.address, secret)
        channel = Channel(reach.connect, f"sandbox {ref.id}")
        await channel.open()
        return RunnerSandbox(ref, channel, self)

    async def _remove(self, name: str) -> str | None:
        """Remove a container; return the image that it was started from when that was a snapshot."""
        try:
            found = await self._engine.call(lambda client: client.inspect_container(name))
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(Conflict),  # its removal is under way already
                stop=stop_after_delay(_PATIENCE),
                wait=wait_exponential(0.02, max=1),
            ):
                with attempt:
                    await self._engine.call(lambda client: client.remove_container(name, v=True, force=True))
        except NotFound:
            return None
        return found["Image"] if found["Config"]["Labels"].get(labels.ORIGIN) else None

    async def _remove_unnamed(self, image: str) -> None:
        """Remove a snapshot that was dropped, unless other sandboxes still stand on it."""
        with contextlib.suppress(NotFound, Conflict):
            found = await self._engine.inspect_image(image)
            if not found["RepoTags"]:
                await self._engine.call(lambda client: client.remove_image(image))

    async def _clean(self, ref: SandboxRef) -> None:
        with contextlib.suppress(SandboxLost):
            await to_the_end(self.destroy(ref))

    async def _unavailable(self, error: Exception) -> str:
        if isinstance(error, EngineError):
            return f"the Docker engine refuses: {error}"
        url = (await self._engine.endpoint()).url
        return f"the Docker engine at {url} does not answer: {error}. Is it running, and may this user talk to it?"


def _image(snapshot: str) -> str:
    """The image of a snapshot, by its id or the name that it was given."""
    return snapshot if ":" in snapshot else f"{_SNAPSHOTS}:{snapshot}"


def _clock(info: Mapping[str, object]) -> float:
    """The time of the engine, in seconds since the epoch."""
    return datetime.fromisoformat(str(info["SystemTime"])).timestamp()


def _record(directory: Directory, owner: Owner, profile: Profile) -> None:
    directory.make(Record(owner, profile.spec_hash, time.time(), processes.boot_id(), processes.me()))


def _sweep(directory: Directory, owner: Owner | None) -> None:
    """Remove what is left of a sandbox that has no container: it has ended, or was never finished."""
    record = directory.read()
    if record is None or owner not in (None, record.owner):
        return
    making = record.boot == processes.boot_id() and record.creator.alive
    if (directory.path / _STARTED).exists() or not making:
        directory.remove()
