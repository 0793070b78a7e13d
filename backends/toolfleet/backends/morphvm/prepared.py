"""Snapshots of an image with the runner's interpreter in it, so that it is uploaded once and not into every VM."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from toolfleet.backends.morphvm.account import Account, Gone, Passing, Refused

if TYPE_CHECKING:
    from morphcloud.api import Snapshot

log = logging.getLogger(__name__)

#: Metadata of such a snapshot.
_METADATA = {"toolfleet": "prepared"}
#: Seconds between two looks for one that is not there yet.
_LOOK_AGAIN = 30.0


class Prepared:
    """Finds, makes and keeps the prepared snapshots of one interpreter. The account's workers share them by digest."""

    def __init__(self, account: Account, interpreter: str) -> None:
        self._account = account
        self._interpreter = interpreter
        self._found: dict[str, tuple[str, float]] = {}
        """Image: prepared snapshot, and when its life was last prolonged."""
        self._looked: dict[str, float] = {}
        self._offered: set[str] = set()
        self._looking = asyncio.Lock()

    async def find(self, image: str, ttl: int) -> str:
        """The prepared snapshot of ``image``, or ``image`` itself while there is none."""
        async with self._looking:
            now = time.monotonic()
            if image not in self._found and now - self._looked.get(image, -_LOOK_AGAIN) >= _LOOK_AGAIN:
                self._looked[image] = now
                if ready := [found for found in await self._all(image) if found.status == "ready"]:
                    # Two workers may have made one at once: all agree on which, and the other one's life runs out.
                    self._found[image] = (min(ready, key=lambda found: (found.created, found.id)).id, now - ttl)
            if image not in self._found:
                return image
            name, prolonged = self._found[image]
            if now - prolonged > ttl / 4:
                try:
                    await self._account.keep(name, ttl)
                except Gone:
                    self.forget(image)
                    return image
                self._found[image] = (name, now)
            return name

    def forget(self, image: str) -> bool:
        """What was found is gone; False when nothing had been found."""
        self._looked.pop(image, None)
        self._offered.discard(image)
        return self._found.pop(image, None) is not None

    async def offer(self, image: str, instance: str, ttl: int) -> bool:
        """Save a VM that holds nothing but ``image`` and the interpreter; at most once in each process.

        A failure costs uploads, nothing else. Returns whether the VM is being saved.
        """
        if image in self._offered:
            return False
        self._offered.add(image)
        try:
            if await self._all(image):
                return False
            await self._account.save(instance, self._digest(image), _METADATA, ttl)
        except (Gone, Passing, Refused) as error:
            log.warning("no prepared snapshot of %s could be made: %s", image, error)
            return False
        self._looked.pop(image, None)
        return True

    async def _all(self, image: str) -> "list[Snapshot]":
        return await self._account.snapshots(self._digest(image))

    def _digest(self, image: str) -> str:
        return f"toolfleet-{self._interpreter}-{image}"
