"""The reply stream: one connection brings every result and notice of a producer."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import redis.asyncio
import redis.exceptions

from toolfleet.config.connection import OUTAGES
from toolfleet.config.lines import Lines
from toolfleet.config.state import FleetState

log = logging.getLogger(__name__)

#: kind (``result``, ``moved``, ``placed``), id, body
Handler = Callable[[str, str, bytes], None]

#: Entries read before the stream is trimmed; bounds what Redis holds for a busy producer.
TRIM_EVERY = 200


class Replies:
    """Reads the stream from its beginning and hands each entry to ``handle``, for as long as it runs."""

    def __init__(
        self,
        connection: redis.asyncio.Redis,
        state: FleetState,
        producer: str,
        handle: Handler,
        on_outage: Callable[[], None],
    ) -> None:
        self._redis = connection
        self._line = Lines(connection, 1)
        self._key = state.key("replies", producer)
        self._handle = handle
        self._on_outage = on_outage
        self._last = b"0-0"
        self._untrimmed = 0
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(self._read_forever(), name="toolfleet-replies")

    async def stop(self) -> None:
        """End reading."""
        # The flag beside the cancellation: the Redis client may swallow the latter while it reconnects.
        self._stopping = True
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _read_forever(self) -> None:
        pause = 0.05
        while not self._stopping:
            try:
                await self._read_once()
                pause = 0.05
            except OUTAGES as error:
                log.warning("reply stream interrupted, trying again: %s", error)
                self._on_outage()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            except redis.exceptions.ResponseError as error:
                log.warning("reply stream refused, trying again: %s", error)
                await asyncio.sleep(1.0)

    async def _read_once(self) -> None:
        streams = await self._line.ask("XREAD", "COUNT", 1000, "BLOCK", 5000, "STREAMS", self._key, self._last)
        # Pairs of a key and its entries, or a mapping in the newer protocol; nothing when nothing came in time.
        for entries in dict(streams or ()).values():
            for entry_id, fields in entries:
                self._last = entry_id
                self._deliver(dict(zip(fields[::2], fields[1::2], strict=True)))
            self._untrimmed += len(entries)
        if self._untrimmed >= TRIM_EVERY:
            self._untrimmed = 0
            await self._redis.xtrim(self._key, minid=self._last.decode())

    def _deliver(self, fields: dict[bytes, bytes]) -> None:
        try:
            self._handle(fields[b"kind"].decode(), fields[b"id"].decode(), fields[b"body"])
        except Exception:
            # One entry that cannot be read must not silence all that follow.
            log.exception("an entry of the reply stream could not be read")
