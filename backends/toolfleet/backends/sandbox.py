"""The sandbox of every backend whose runner is reached through a channel."""

from typing import Protocol

from toolfleet.backends.base import Known, Outcome, Request, SandboxRef
from toolfleet.backends.channel import Channel
from toolfleet.config.errors import SpecRefused


class Keeper(Protocol):
    """What a backend does about a sandbox from outside."""

    async def destroy(self, ref: SandboxRef) -> None:
        """See `toolfleet.backends.base.Backend.destroy`."""
        ...

    async def save(self, ref: SandboxRef, name: str) -> str:
        """See `toolfleet.backends.base.Sandbox.snapshot`."""
        ...


class RunnerSandbox:
    """A live sandbox; see `toolfleet.backends.base.Sandbox`."""

    def __init__(self, ref: SandboxRef, channel: Channel, keeper: Keeper) -> None:
        self.ref = ref
        self._channel = channel
        self._keeper = keeper

    async def run(self, request: Request) -> Outcome:
        """See `toolfleet.backends.base.Sandbox.run`."""
        return await self._channel.run(request)

    async def cancel(self, call_id: str) -> bool:
        """See `toolfleet.backends.base.Sandbox.cancel`."""
        return await self._channel.cancel(call_id)

    async def query(self, call_id: str) -> Known:
        """See `Channel.query`."""
        return await self._channel.query(call_id)

    async def claim(self, epoch: int) -> None:
        """See `Channel.claim`."""
        await self._channel.claim(epoch)

    async def ping(self, ttl: float) -> int:
        """See `toolfleet.backends.base.Sandbox.ping`."""
        return await self._channel.ping(ttl)

    async def snapshot(self, name: str) -> str:
        """See `toolfleet.backends.base.Sandbox.snapshot`."""
        return await self._keeper.save(self.ref, name)

    async def reset(self) -> None:
        """See `toolfleet.backends.base.Sandbox.reset`."""
        raise SpecRefused(f"a sandbox of {self.ref.backend} is not reset: to destroy it and make another costs less")

    async def detach(self) -> None:
        """See `toolfleet.backends.base.Sandbox.detach`."""
        await self._channel.detach()

    async def close(self) -> None:
        """See `toolfleet.backends.base.Sandbox.close`."""
        await self._channel.detach()
        await self._keeper.destroy(self.ref)
