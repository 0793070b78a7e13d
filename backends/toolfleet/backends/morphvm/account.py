"""MorphCloud's SDK, bounded: every request ends in time, and fails with `Gone`, `Passing`, `Refused`
or `BackendUnavailable`.

The SDK is imported, and its client made, on first use in a process: a client that crosses a fork hands one process the
answers of another. Its connections belong to one event loop.
"""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from toolfleet.config.errors import BackendUnavailable
from toolfleet.config.patience import persist

if TYPE_CHECKING:
    from morphcloud.api import Instance, MorphCloudClient, Snapshot

T = TypeVar("T")
V = TypeVar("V", "Instance", "Snapshot")

#: Seconds that one request may take; making an instance or a snapshot is answered before it is done.
_ANSWER = 30.0
#: Seconds for which a request that bears being sent twice is repeated.
PATIENCE = 20.0
#: Seconds between two looks at something that is not ready: at first, and at most.
_SOON, _LATER = 0.05, 1.0
#: Connection pools of the SDK's client: each costs a twentieth of a second when it is made.
_SHARDS = "2"
#: What to do without a key.
_KEY = "set MORPH_API_KEY to a key from https://cloud.morph.so/web/keys"


class Gone(Exception):
    """There is no such instance or snapshot (any more)."""


class Passing(Exception):
    """MorphCloud was busy, too slow or not to be reached; another try may work."""


class Refused(Exception):
    """MorphCloud does not do what was asked; another try will not help."""


class Account:
    """The account that the SDK's own variables name."""

    def __init__(self) -> None:
        self._client: MorphCloudClient | None = None
        self._made_for: tuple[int, asyncio.AbstractEventLoop] | None = None

    async def client(self) -> "MorphCloudClient":
        """The SDK's client of this process and loop.

        Raises:
            BackendUnavailable: there is no SDK, or no key.
        """
        here = (os.getpid(), asyncio.get_running_loop())
        if self._client is None or self._made_for != here:
            client = await asyncio.to_thread(_make_client)
            if self._client is None or self._made_for != here:
                self._client, self._made_for = client, here
        return self._client

    async def close(self) -> None:
        """Close the client's connections."""
        client, self._client = self._client, None
        if client is not None:
            client._http_client.close()
            if self._made_for == (os.getpid(), asyncio.get_running_loop()):
                await client._async_http_client.aclose()

    # -- instances ------------------------------------------------------------------------------------------------

    async def start(self, snapshot: str, body: Mapping[str, Any]) -> "Instance":
        """Begin to make an instance. Not repeated: one whose answer is lost may exist.

        ``body`` holds ``metadata``, ``ttl_seconds`` and ``ttl_action``, and ``vcpus``, ``memory`` and ``disk_size``
        where they shall differ from the snapshot's; with one of these the instance is booted, not resumed.
        """
        client = await self.client()
        if body.keys() & {"vcpus", "memory", "disk_size"}:
            return await _bounded(client.instances.aboot(snapshot, **body))
        from morphcloud.api import Instance

        # The SDK's own start goes on to wait until the instance is ready, and gives up at the first trouble.
        async def start() -> Instance:
            http = client._async_http_client
            answer = await http.post("/instance", params={"snapshot_id": snapshot}, json=dict(body))
            return Instance.model_validate(answer.json())._set_api(client.instances)

        return await _bounded(start())

    async def instance(self, name: str) -> "Instance":
        """The instance ``name`` as it is now."""
        return await self._repeat(lambda client: client.instances.aget(name))

    async def ready(self, name: str, patience: float) -> "Instance":
        """Wait until an instance is ready, for ``patience`` seconds, and return it."""
        return await _poll(lambda: self.instance(name), f"instance {name}", patience)

    async def rouse(self, name: str) -> None:
        """Resume an instance if it is paused; one that is neither paused nor ready is `Passing` or `Gone`."""
        instance = await self.instance(name)
        if instance.status == "paused":
            await self.resume(name)
        elif instance.status != "ready":
            raise (Gone if instance.status == "error" else Passing)(f"instance {name} is in state {instance.status}")

    async def instances(self, metadata: Mapping[str, str]) -> "list[Instance]":
        """The instances that carry all of ``metadata``."""
        return await self._repeat(lambda client: client.instances.alist(dict(metadata)))

    async def stop(self, name: str) -> None:
        """End an instance. Idempotent."""
        try:
            await self._repeat(lambda client: client.instances.astop(name))
        except Gone:
            return

    async def pause(self, name: str) -> None:
        """Pause an instance; one that is paused stays so."""
        await self._change(name, "paused", lambda instance: instance.apause())

    async def resume(self, name: str) -> None:
        """Resume an instance; one that runs goes on."""
        await self._change(name, "ready", lambda instance: instance.aresume())

    async def _change(self, name: str, status: str, change: "Callable[[Instance], Awaitable[None]]") -> None:
        async def once(client: "MorphCloudClient") -> None:
            instance = await client.instances.aget(name)
            if instance.status != status:
                await change(instance)

        await self._repeat(once)

    async def set_ttl(self, name: str, seconds: int) -> None:
        """Have MorphCloud end the instance that many seconds from now."""

        async def once(client: "MorphCloudClient") -> None:
            await (await client.instances.aget(name)).aset_ttl(seconds, "stop")

        await self._repeat(once)

    async def ssh_key(self, name: str) -> str:
        """The private key that opens the instance, and no other."""

        async def once(client: "MorphCloudClient") -> str:
            return (await (await client.instances.aget(name)).assh_key()).private_key

        return await self._repeat(once)

    # -- snapshots ------------------------------------------------------------------------------------------------

    async def save(self, name: str, digest: str | None, metadata: Mapping[str, str], ttl: int) -> "Snapshot":
        """Begin to save an instance. Not repeated: one whose answer is lost may exist."""
        client = await self.client()

        async def save() -> "Snapshot":
            instance = await client.instances.aget(name)
            return await instance.asnapshot(digest=digest, metadata=dict(metadata), ttl_seconds=ttl)

        return await _bounded(save())

    async def snapshot(self, name: str) -> "Snapshot":
        """The snapshot ``name`` as it is now."""
        return await self._repeat(lambda client: client.snapshots.aget(name))

    async def saved(self, name: str, patience: float) -> None:
        """Wait until a snapshot is complete, for ``patience`` seconds."""
        await _poll(lambda: self.snapshot(name), f"snapshot {name}", patience)

    async def snapshots(self, digest: str) -> "list[Snapshot]":
        """The snapshots of that digest."""
        return await self._repeat(lambda client: client.snapshots.alist(digest=digest))

    async def named(self, key: str, name: str) -> list[str]:
        """The ids of the snapshots whose metadata say so."""
        found = await self._repeat(lambda client: client.snapshots.alist(metadata={key: name}))
        return [snapshot.id for snapshot in found]

    async def keep(self, name: str, ttl: int) -> None:
        """Have MorphCloud delete a snapshot that many seconds from now."""

        async def once(client: "MorphCloudClient") -> None:
            await (await client.snapshots.aget(name)).aset_ttl(ttl)

        await self._repeat(once)

    async def delete(self, name: str) -> None:
        """Delete a snapshot. Idempotent."""

        async def once(client: "MorphCloudClient") -> None:
            await (await client.snapshots.aget(name)).adelete()

        try:
            await self._repeat(once)
        except Gone:
            return

    async def _repeat(self, work: "Callable[[MorphCloudClient], Awaitable[T]]") -> T:
        client = await self.client()
        return await persist(lambda: _bounded(work(client)), PATIENCE, (Passing,))


async def _poll(look: "Callable[[], Awaitable[V]]", what: str, patience: float) -> "V":
    """What ``look`` returns once it is ready. The SDK's own wait looks once a second and gives up at the first trouble.

    Raises:
        Gone, Passing, Refused, BackendUnavailable: it will not be, or not in time.
    """
    wait = _SOON
    try:
        async with asyncio.timeout(patience):
            while (found := await look()).status != "ready":
                if found.status in ("error", "failed", "deleting", "deleted"):
                    raise Gone(f"{what} is in state {found.status}")
                await asyncio.sleep(wait)
                wait = min(_LATER, wait * 1.5)
            return found
    except TimeoutError:
        raise Passing(f"{what} was not ready within {patience:.0f} s") from None


async def _bounded(work: Awaitable[T]) -> T:
    """What ``work`` returns, in time.

    Raises:
        Gone, Passing, Refused, BackendUnavailable: instead of the SDK's and httpx's own errors.
    """
    import httpx
    from morphcloud.api import ApiError

    try:
        async with asyncio.timeout(_ANSWER):
            return await work
    except TimeoutError:
        raise Passing(f"MorphCloud did not answer within {_ANSWER:.0f} s") from None
    except httpx.TransportError as error:
        raise Passing(f"MorphCloud cannot be reached: {error or type(error).__name__}") from error
    except ApiError as error:
        raise _sort(error.status_code, error.detail or error.response_body) from error


def _sort(status: int, words: str) -> Exception:
    words = f"MorphCloud answered {status}: {' '.join(words.split())[:500]}"
    if status == 404:
        return Gone(words)
    if status in (401, 403):
        return BackendUnavailable(f"{words}. The key is not accepted: {_KEY}")
    if status in (408, 409, 425, 429) or status >= 500:
        return Passing(words)
    return Refused(words)


@functools.cache
def _sdk() -> "type[MorphCloudClient]":
    try:
        import asyncssh  # noqa: F401 - comes with the same extra
        from morphcloud.api import MorphCloudClient
    except ImportError as error:
        raise BackendUnavailable(
            f"the backend morph needs its SDK: pip install 'toolfleet[morph]' ({error})"
        ) from error
    return MorphCloudClient


def _make_client() -> "MorphCloudClient":
    os.environ.setdefault("MORPH_HTTP_TRANSPORT_SHARDS", _SHARDS)  # the SDK takes it from nowhere else
    try:
        return _sdk()()
    except ValueError as error:
        raise BackendUnavailable(f"MorphCloud needs a key: {_KEY}") from error
