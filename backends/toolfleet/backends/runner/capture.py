"""A stream's head and tail in bounded memory."""


class Capture:
    """Keeps the first 40 % and the last 60 % of ``keep`` bytes of a stream and counts what it drops.

    Errors stand at the end of an output more often than at its start, hence the larger tail. Memory never exceeds
    about twice ``keep``, whatever is fed.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._most = keep
        """Bytes that the tail may hold before it is trimmed."""
        self._head: bytes | None = None
        """Cut off once there is more than can be kept; until then the tail is everything."""
        self._tail = bytearray()
        self._total = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._total += len(data)
        self._tail += data
        if len(self._tail) > self._most:
            self._trim()

    def result(self) -> tuple[bytes, int, int]:
        """What was kept, how many of its bytes stand before the gap, and how many bytes are missing there."""
        if self._head is None:
            return bytes(self._tail), self._total, 0
        kept = self._head + self._tail[max(0, len(self._tail) - self._tail_limit) :]
        return kept, len(self._head), self._total - len(kept)

    @property
    def _tail_limit(self) -> int:
        return self._keep - self._keep * 2 // 5

    def _trim(self) -> None:
        if self._head is None:
            cut = self._keep - self._tail_limit
            self._head = bytes(self._tail[:cut])
            del self._tail[:cut]
            # Trimmed only at twice the limit, so that a flood of tiny writes does not move the tail for each of them.
            self._most = 2 * self._tail_limit
        if len(self._tail) > self._most:
            del self._tail[: len(self._tail) - self._tail_limit]
