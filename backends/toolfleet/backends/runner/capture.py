"""A stream's head and tail in bounded memory."""


class Capture:
    """Keeps the first 40 % and the last 60 % of ``keep`` bytes of a stream and counts what it drops.

    Errors stand at the end of an output more often than at its start, hence the larger tail. Memory never exceeds
    about twice ``keep``, whatever is fed.
    """

    def __init__(self, keep: int) -> None:
        self._head_limit = keep * 2 // 5
        self._tail_limit = keep - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if len(data) >= self._tail_limit:
            self._tail = bytearray(data[len(data) - self._tail_limit :])
            return
        self._tail += data
        # Trimmed only at twice the limit, so that a flood of tiny writes does not move the tail for each of them.
        if len(self._tail) > 2 * self._tail_limit:
            del self._tail[: len(self._tail) - self._tail_limit]

    def result(self) -> tuple[bytes, int, int]:
        """What was kept, how many of its bytes stand before the gap, and how many bytes are missing there."""
        if self._total == len(self._head):
            return bytes(self._head), self._total, 0
        tail = self._tail[max(0, len(self._tail) - self._tail_limit) :]
        kept = bytes(self._head + tail)
        dropped = self._total - len(kept)
        return kept, (len(self._head) if dropped else len(kept)), dropped
