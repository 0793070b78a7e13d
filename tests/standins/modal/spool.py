"""Output of a process, kept in a file without a name and read by offset, as often and by as many as like."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

_CHUNK = 256 * 1024


class Spool:
    """Grows while its process writes, and is complete once all writing ends are closed."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as its exec
        self._size = 0
        self._complete = False
        self._grown = asyncio.Event()

    async def fill(self, pipe: asyncio.StreamReader) -> None:
        """Take what the process writes, to its end."""
        try:
            while data := await pipe.read(_CHUNK):
                os.pwrite(self._file.fileno(), data, self._size)
                self._size += len(data)
                self._wake()
        finally:
            self._complete = True
            self._wake()

    async def read(self, offset: int) -> AsyncGenerator[bytes, None]:
        """What there is from ``offset`` on, and what is still to come."""
        while True:
            grown = self._grown
            if data := os.pread(self._file.fileno(), _CHUNK, offset):
                offset += len(data)
                yield data
            elif self._complete:
                return
            else:
                await grown.wait()

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()
