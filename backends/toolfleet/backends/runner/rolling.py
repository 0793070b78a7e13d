"""A stream's latest bytes in bounded memory, read by their place in the whole stream."""


class Rolling:
    """Keeps the last ``keep`` bytes of a stream; a byte keeps its offset for ever, whatever has been dropped before it.

    Memory never exceeds ``keep`` by more than a quarter and one feed.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._bytes = bytearray()
        self.end = 0
        """Offset behind the last byte: the length of the whole stream."""

    @property
    def start(self) -> int:
        """Offset of the first byte that is still there: how many have been dropped."""
        return max(0, self.end - self._keep)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._bytes += data
        self.end += len(data)
        # Trimmed in steps, so that a flood of tiny writes does not move everything for each of them.
        if len(self._bytes) > self._keep + self._keep // 4:
            del self._bytes[: -self._keep]

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """At most ``limit`` bytes from ``offset`` on, and the offset of the first of them.

        That offset is higher than asked where the beginning has been dropped.
        """
        first = min(max(offset, self.start), self.end)
        behind = self.end - len(self._bytes)
        return first, bytes(self._bytes[first - behind : first - behind + limit])

    def tail(self, limit: int) -> bytes:
        """The last bytes, at most ``limit``."""
        return self.read(self.end - limit, limit)[1]
