"""Images: found, or pulled; few at a time, each once, with progress in the log."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolfleet.backends.engine.client import Engine, EngineError, EngineGone, NotFound
from toolfleet.config.errors import BackendUnavailable, SandboxStartFailed, SnapshotLost, SpecRefused

if TYPE_CHECKING:
    from docker import APIClient

log = logging.getLogger(__name__)

#: Images pulled at once: a third one would only slow the other two down.
_PULLS = 2
#: Seconds that a pull may take, and between two words about it in the log.
_PULL_WITHIN, _TELL_EVERY = 3600.0, 5.0


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has."""

    id: str
    user: str
    """As whom the image wants to be run; empty for root."""


class Images:
    """Makes sure of images."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pulls = asyncio.Semaphore(_PULLS)
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, name: str, *, pull: bool) -> Image:
        """The image ``name``; pulled when the engine lacks it and ``pull`` allows it.

        Raises:
            SpecRefused: it does not exist, or may not be pulled.
            SandboxStartFailed: the pull broke off.
        """
        if (image := await self._find(name)) is not None:
            return image
        if not pull:
            raise SpecRefused(
                f"the engine has no image {name!r}, and the profile forbids pulling it: docker pull {name}"
            )
        async with self._locks.setdefault(name, asyncio.Lock()):
            if (image := await self._find(name)) is not None:
                return image
            async with self._pulls:
                await self._pull(name)
        image = await self._find(name)
        if image is None:
            raise SandboxStartFailed(f"the image {name!r} was pulled and is gone again")
        return image

    async def saved(self, snapshot: str) -> Image:
        """The image of a snapshot.

        Raises:
            SnapshotLost: the engine has none.
        """
        if (image := await self._find(snapshot)) is None:
            raise SnapshotLost(f"the engine has no snapshot {snapshot} (any more)")
        return image

    async def _find(self, name: str) -> Image | None:
        try:
            found = await self._engine.inspect_image(name)
        except NotFound:
            return None
        return Image(found["Id"], (found.get("Config") or {}).get("User") or "")

    async def _pull(self, name: str) -> None:
        log.info("pulling %s", name)
        began = time.monotonic()
        try:
            await self._engine.call(lambda client: _pull(client, name), _PULL_WITHIN)
        except NotFound as error:
            raise SpecRefused(f"there is no image {name!r} to be pulled: {error}") from error
        except EngineError as error:
            if error.status in (401, 403):
                raise BackendUnavailable(f"the registry refuses {name!r} (docker login?): {error}") from error
            raise SandboxStartFailed(f"cannot pull {name!r}: {error}") from error
        except EngineGone as error:
            raise SandboxStartFailed(f"cannot pull {name!r}: {error}") from error
        log.info("pulled %s in %.0f s", name, time.monotonic() - began)


def _pull(client: "APIClient", name: str) -> None:
    """Follow a pull to its end; on a thread."""
    layers: dict[str, tuple[int, int]] = {}
    told = time.monotonic()
    repository, tag = _reference(name)
    for event in client.pull(repository, tag=tag, stream=True, decode=True):
        if "error" in event:
            missing = "not found" in event["error"] or "does not exist" in event["error"]
            raise (NotFound if missing else EngineError)(500, event["error"])
        progress = event.get("progressDetail") or {}
        if progress.get("total"):
            layers[event.get("id", "")] = (progress.get("current", 0), progress["total"])
        if layers and time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            done, total = (sum(column) for column in zip(*layers.values(), strict=True))
            log.info("pulling %s: %d of %d MB", name, done // 10**6, total // 10**6)


def _reference(name: str) -> tuple[str, str | None]:
    """Repository and tag; without a tag ``latest``, for the engine would pull all of them."""
    if "@" in name:
        return name, None
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, "latest"
    return repository, tag
