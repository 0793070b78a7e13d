"""Sandboxes that exist without anybody having them: of creations that failed half way, or were done twice.

Modal's SDK repeats a creation whose answer was lost, and a creation that was given up may still succeed. Every sandbox
is therefore tagged with who has asked for it (``maker``, a life of a backend) and in which attempt. A stray's runner
never gets its configuration and does nothing; should its maker die before it is found, Modal ends it as idle.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from toolfleet.backends.modal_cloud.sdk import bounded

if TYPE_CHECKING:
    import modal

_MAKER, _ATTEMPT = "toolfleet_maker", "toolfleet_attempt"


class Strays:
    """Knows what one backend has asked for and got, and removes what else there is of it."""

    def __init__(
        self,
        find: "Callable[[dict[str, str]], Awaitable[Iterable[modal.Sandbox]]]",
        terminate: "Callable[[modal.Sandbox], Awaitable[None]]",
    ) -> None:
        self._find = find
        self._terminate = terminate
        self._maker = {_MAKER: secrets.token_hex(8)}
        self._under_way: set[str] = set()
        self._known: set[str] = set()

    def begin(self) -> dict[str, str]:
        """The tags of a new attempt, which ends with `made` or `failed`."""
        attempt = secrets.token_hex(8)
        self._under_way.add(attempt)
        return {**self._maker, _ATTEMPT: attempt}

    def made(self, tags: dict[str, str], sandbox_id: str) -> None:
        """The attempt has led to this sandbox; any other one of it is a stray."""
        self._known.add(sandbox_id)
        self._under_way.discard(tags[_ATTEMPT])

    async def failed(self, tags: dict[str, str]) -> None:
        """The attempt has failed: all that came of it is stray, and removed.

        Raises:
            CloudError, SandboxLost: something may be left; `remove` finds it.
        """
        self._under_way.discard(tags[_ATTEMPT])
        for sandbox in await self._find(tags):
            await self._terminate(sandbox)

    async def remove(self) -> None:
        """Remove all strays that exist now.

        Raises:
            CloudError, SandboxLost: some may be left, for the next time.
        """
        before = frozenset(self._known)
        found = {sandbox.object_id: sandbox for sandbox in await self._find(self._maker)}
        for sandbox_id, sandbox in found.items():
            if sandbox_id not in self._known and not await self._is_under_way(sandbox):
                await self._terminate(sandbox)
        self._known -= before - found.keys()

    async def _is_under_way(self, sandbox: "modal.Sandbox") -> bool:
        async with bounded("tell the tags of a sandbox"):
            tags = await sandbox.get_tags.aio()
        # Asked again: its creation may have ended meanwhile.
        return tags.get(_ATTEMPT) in self._under_way or sandbox.object_id in self._known
