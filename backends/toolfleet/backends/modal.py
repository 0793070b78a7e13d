"""Sandboxes in Modal's cloud: a container each, whose entrypoint is the runner.

The runner is the sandbox: when it ends, by itself or not, Modal takes the container away. It is reached through a relay
(one long exec), and whoever has the sandbox's id and secret can reach it, from anywhere.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolfleet.backends import runtime
from toolfleet.backends.base import Capabilities, Known, Outcome, Owner, Request, SandboxRef
from toolfleet.backends.cancellation import to_the_end
from toolfleet.backends.channel import Channel, Fenced
from toolfleet.backends.local import place
from toolfleet.backends.modal_cloud import ends, promises, relay, spec
from toolfleet.backends.modal_cloud.proof import Proof
from toolfleet.backends.modal_cloud.sdk import CloudError, Sdk, bounded, load, start_error
from toolfleet.backends.modal_cloud.strays import Strays
from toolfleet.backends.runner import config as boot
from toolfleet.backends.runner import standalone
from toolfleet.backends.runner.seal import new_secret
from toolfleet.backends.runtime import Bundle
from toolfleet.backends.transports import piped, sealed
from toolfleet.config.errors import BackendUnavailable, SandboxLost, SandboxStartFailed, SpecRefused
from toolfleet.config.profile import Profile

if TYPE_CHECKING:
    import modal

#: Seconds until a new sandbox must answer: pulling an image for the first time may take minutes.
_START = 300.0
#: Seconds that the answer to an order is waited for when nobody wants its sandbox any more.
_SETTLE = 5.0
#: Seconds for a snapshot, which Modal bounds by about as much.
_SNAPSHOT = 60
#: Seconds after which Modal removes a snapshot that nobody has dropped.
_SNAPSHOT_TTL = 7 * 24 * 3600
#: Images that are remembered, see `ModalBackend`; snapshots come and go.
_KNOWN_IMAGES = 256
_MACHINE = "x86_64"
#: What the ids of Modal's images begin with.
_IMAGE = "im-"
#: The abstract socket of a runner; network and file system of a sandbox are its own, so a fixed name is enough.
_ADDRESS = "@toolfleet"


class ModalSandbox:
    """A live sandbox; see `toolfleet.backends.base.Sandbox`."""

    def __init__(
        self, ref: SandboxRef, handle: "modal.Sandbox", connect: Callable[[], Channel], proof: Proof | None = None
    ) -> None:
        self.ref = ref
        self._handle = handle
        self._connect = connect
        self._channel = connect()
        self._proof = proof

    async def open(self) -> None:
        """Connect to the runner.

        Raises:
            SandboxLost: nothing answers.
        """
        await self._channel.open()

    async def run(self, request: Request) -> Outcome:
        """See `toolfleet.backends.base.Sandbox.run`."""
        async with self._explained():
            return await self._channel.run(request)

    async def cancel(self, call_id: str) -> bool:
        """See `toolfleet.backends.base.Sandbox.cancel`."""
        async with self._explained():
            return await self._channel.cancel(call_id)

    async def query(self, call_id: str) -> Known:
        """See `Channel.query`."""
        async with self._explained():
            return await self._channel.query(call_id)

    async def claim(self, epoch: int) -> None:
        """See `Channel.claim`."""
        async with self._explained():
            await self._channel.claim(epoch)

    async def ping(self, ttl: float) -> int:
        """See `toolfleet.backends.base.Sandbox.ping`. The open exec keeps Modal's idle time-out away meanwhile."""
        async with self._explained():
            return await self._channel.ping(ttl)

    async def snapshot(self, name: str) -> str:
        """See `toolfleet.backends.base.Sandbox.snapshot`. Modal knows no names, and removes what nobody has dropped."""
        try:
            async with bounded("save the sandbox", _SNAPSHOT):
                image: modal.Image = await self._handle.snapshot_filesystem.aio(timeout=_SNAPSHOT, ttl=_SNAPSHOT_TTL)
        except CloudError as error:
            why = await ends.cause(self._handle) or str(error)
            raise SandboxLost(f"sandbox {self.ref.id} could not be saved: {why}", sent=True) from error
        return image.object_id

    async def reset(self) -> None:
        """See `toolfleet.backends.base.Sandbox.reset`. Only who has made a sandbox knows what it was."""
        if self._proof is None:
            raise SpecRefused("a sandbox of Modal is reset with modal.pooled = true, and by the worker that made it")
        self._proof.count()
        async with self._explained():
            await self._channel.renew()
        await self._channel.detach()
        await self._proof.restore()
        self._channel = self._connect()
        async with self._explained():
            await self._channel.open()

    async def detach(self) -> None:
        """See `toolfleet.backends.base.Sandbox.detach`. The SDK's own connections close when they have been idle."""
        await self._channel.detach()

    async def close(self) -> None:
        """See `toolfleet.backends.base.Sandbox.close`."""
        await self._channel.detach()
        await _terminate(self._handle)

    @contextlib.asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        """Say why a sandbox is lost, where Modal tells."""
        try:
            yield
        except Fenced:
            raise
        except SandboxLost as error:
            if (why := await ends.cause(self._handle)) is None:
                raise
            raise SandboxLost(f"sandbox {self.ref.id} is gone: {why}", sent=error.sent) from error


class ModalBackend:
    """See `toolfleet.backends.base.Backend`."""

    name = "modal"
    deviations = promises.DEVIATIONS

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._sdk = Sdk()
        self._images: dict[tuple[str | None, str | None, Path], modal.Image] = {}
        """Images that Modal has been told of, by recipe; otherwise every creation would tell it again."""
        self._strays = Strays(self._find, _terminate)

    async def probe(self) -> Capabilities:
        """See `toolfleet.backends.base.Backend.probe`."""
        try:
            where = await self._place()
        except CloudError as error:
            raise BackendUnavailable(f"{error}. Check the token and MODAL_SERVER_URL: modal token info") from error
        await asyncio.to_thread(_bundle, self._runtime_dir)
        return replace(promises.CAPABILITIES, places=frozenset({where}), snapshots_at=where)

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> ModalSandbox:
        """See `toolfleet.backends.base.Backend.create`."""
        spec.check(profile)
        load()
        bundle = await asyncio.to_thread(_bundle, self._runtime_dir)
        secret = new_secret()
        try:
            line = boot.line(spec.config(profile), secret)
        except ValueError as error:
            raise SpecRefused(str(error)) from error
        attempt = self._strays.begin()
        # Beside us: a request that is under way when we give up is better waited for than cut, see `_clean`.
        order = asyncio.ensure_future(self._order(profile, owner, origin, attempt, bundle))
        try:
            async with bounded("start a sandbox", _START):
                handle = await asyncio.shield(order)
                await _boot(handle, line)
                ref = SandboxRef(self.name, handle.object_id, _ADDRESS, await self._place(), secret.hex())
                options = profile.modal
                proof = await Proof.take(handle, bundle, options.max_uses) if options.pooled else None
                sandbox = ModalSandbox(ref, handle, _channel(ref, handle, bundle), proof)
                await sandbox.open()
        except CloudError as error:
            await to_the_end(self._clean(attempt, order))
            raise start_error(error, origin) from error
        except SandboxLost as error:
            await to_the_end(self._clean(attempt, order))
            raise SandboxStartFailed(f"the sandbox was lost as it started: {error}") from error
        except BaseException:
            await to_the_end(self._clean(attempt, order))
            raise
        self._strays.made(attempt, ref.id)
        return sandbox

    async def attach(self, ref: SandboxRef) -> ModalSandbox:
        """See `toolfleet.backends.base.Backend.attach`. From anywhere, given the reference of its maker."""
        if not ref.secret:
            raise SandboxLost(f"sandbox {ref.id} cannot be reached: there is no secret in its reference", sent=False)
        bundle = await asyncio.to_thread(_bundle, self._runtime_dir)
        try:
            handle = await self._handle(ref.id)
        except CloudError as error:
            raise SandboxLost(f"sandbox {ref.id} is gone: {error}", sent=False) from error
        sandbox = ModalSandbox(ref, handle, _channel(ref, handle, bundle))
        try:
            await sandbox.open()
        except SandboxLost as error:
            why = await ends.cause(handle) or str(error)
            await sandbox.detach()
            raise SandboxLost(f"sandbox {ref.id} cannot be reached: {why}", sent=False) from error
        return sandbox

    async def list(self, owner: Owner | None = None) -> "list[SandboxRef]":
        """See `toolfleet.backends.base.Backend.list`. These references cannot be attached to: they hold no secret.

        Raises:
            SandboxLost: Modal does not answer.
        """
        await self.tidy()
        try:
            found, where = await self._find(spec.tags(owner) if owner else {}), await self._place()
        except CloudError as error:
            raise SandboxLost(f"sandboxes cannot be listed: {error}", sent=False) from error
        return [SandboxRef(self.name, handle.object_id, _ADDRESS, where) for handle in found]

    async def tidy(self, fleet: str = "") -> None:
        """See `toolfleet.backends.base.Backend.tidy`. Only what this backend has made itself is looked at.

        Dead sandboxes are Modal's affair, and a list of everybody's would be long.
        """
        try:
            await self._strays.remove()
        except CloudError as error:
            raise SandboxLost(f"strays cannot be looked for: {error}", sent=False) from error

    async def destroy(self, ref: SandboxRef) -> None:
        """See `toolfleet.backends.base.Backend.destroy`.

        Raises:
            SandboxLost: Modal does not answer; it can be tried again.
        """
        try:
            handle = await self._handle(ref.id)
        except CloudError as error:
            if error.kind != "missing":
                raise SandboxLost(f"sandbox {ref.id} may still run: {error}", sent=True) from error
            return
        await _terminate(handle)

    async def drop(self, snapshot: str) -> None:
        """See `toolfleet.backends.base.Backend.drop`.

        Raises:
            SandboxLost: Modal does not answer; it removes the snapshot by itself after a week.
        """
        if not snapshot.startswith(_IMAGE):
            return  # a name: Modal's answer never came
        try:
            client, _ = await self._sdk.connect()
            from modal import experimental

            async with bounded("remove a snapshot"):
                await experimental.image_delete.aio(snapshot, client=client)
        except CloudError as error:
            if error.kind != "missing":
                raise SandboxLost(f"snapshot {snapshot} may still exist: {error}", sent=True) from error

    async def shutdown(self) -> None:
        """See `toolfleet.backends.base.Backend.shutdown`."""
        self._images.clear()
        with contextlib.suppress(CloudError):
            await self._sdk.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _place(self) -> str:
        """Whoever has the same app can reach every sandbox in it."""
        _, app = await self._sdk.connect()
        return place.of(self.name, app.app_id)

    async def _order(
        self, profile: Profile, owner: Owner, origin: str | None, attempt: dict[str, str], bundle: Bundle
    ) -> "modal.Sandbox":
        client, app = await self._sdk.connect()
        key = (origin or profile.image, profile.modal.registry_secret, bundle.path)
        if key not in self._images:
            self._images[key] = spec.image(profile, origin, bundle.path, client)
            if len(self._images) > _KNOWN_IMAGES:
                del self._images[next(iter(self._images))]
        handle: modal.Sandbox = await load().Sandbox.create.aio(
            *bundle.argv(spec.MOUNTED, "listen", _ADDRESS, program="standalone"),
            app=app,
            client=client,
            image=self._images[key],
            tags={**spec.tags(owner), "toolfleet_spec": profile.spec_hash, **attempt},
            **spec.arguments(profile, client),
        )
        return handle

    async def _clean(self, attempt: dict[str, str], order: "asyncio.Future[modal.Sandbox]") -> None:
        """Remove what a failed attempt has left; what cannot be removed now is by the next `list`."""
        await asyncio.wait({order}, timeout=_SETTLE)
        order.cancel()
        await asyncio.gather(order, return_exceptions=True)
        with contextlib.suppress(CloudError, SandboxLost):
            await self._strays.failed(attempt)

    async def _handle(self, sandbox_id: str) -> "modal.Sandbox":
        client, _ = await self._sdk.connect()
        async with bounded(f"find sandbox {sandbox_id}"):
            handle: modal.Sandbox = await load().Sandbox.from_id.aio(sandbox_id, client=client)
        return handle

    async def _find(self, tags: dict[str, str]) -> "Sequence[modal.Sandbox]":
        client, app = await self._sdk.connect()
        async with bounded("list sandboxes"):
            return [handle async for handle in load().Sandbox.list.aio(app_id=app.app_id, tags=tags, client=client)]


async def _boot(handle: "modal.Sandbox", line: bytes) -> None:
    """Give the runner its configuration and wait until it serves."""
    handle.stdin.write(line)
    await handle.stdin.drain.aio()
    async with contextlib.aclosing(aiter(handle.stdout)) as output:
        async for said in output:
            if said.encode() == standalone.READY:
                return
    words = (await handle.stderr.read.aio()).strip().splitlines()
    why = words[-1] if words else await ends.cause(handle)
    raise SandboxStartFailed(f"the runner did not start: {why or 'it has closed its output'}")


def _channel(ref: SandboxRef, handle: "modal.Sandbox", bundle: Bundle) -> Callable[[], Channel]:
    argv = bundle.argv(spec.MOUNTED, ref.address, program="relay")
    connector = sealed(piped(lambda: relay.start(handle, argv)), bytes.fromhex(ref.secret))
    return lambda: Channel(connector, f"sandbox {ref.id}")


async def _terminate(handle: "modal.Sandbox") -> None:
    """Have Modal end a sandbox, and wait for it; it may have ended already.

    Raises:
        SandboxLost: Modal does not end it; it can be tried again.
    """
    try:
        async with bounded(f"end sandbox {handle.object_id}"):
            await handle.terminate.aio()
            with contextlib.suppress(load().exception.SandboxTimeoutError):  # that was its end before
                await handle.wait.aio(raise_on_termination=False)
    except CloudError as error:
        if error.kind != "missing":
            raise SandboxLost(f"sandbox {handle.object_id} may still run: {error}", sent=True) from error


def _bundle(runtime_dir: Path) -> Bundle:
    """The interpreter to bring along, which is that of this machine. Blocks.

    Raises:
        BackendUnavailable: it cannot be built, or Modal's machines cannot run it.
    """
    if (machine := os.uname().machine) != _MACHINE:
        raise BackendUnavailable(f"sandboxes of Modal run on {_MACHINE} and need a worker of that kind, not {machine}")
    return runtime.ensure(runtime_dir)
