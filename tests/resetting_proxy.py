"""A TCP proxy whose connections can be reset, in the middle of whatever they carry."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

#: Bytes taken from one side at once: few, so that a reset falls between the parts of a command or of an answer.
CHUNK = 512


class Proxy:
    """Connections from ``port`` to another port of this machine, carried by an event loop of its own."""

    def __init__(self, to: int) -> None:
        self.port = 0
        self._to = to
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def stop(self) -> None:
        """End all connections, and listen no more."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset(self) -> None:
        """End all connections with RST, on both sides."""
        self._loop.call_soon_threadsafe(self._reset)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        while self._writers:
            self._reset()
            await asyncio.sleep(0.01)
        await self._server.wait_closed()

    def _reset(self) -> None:
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, there}
        self._writers |= ends
        try:
            await asyncio.gather(self._pump(reader, there), self._pump(there_reader, writer))
        finally:
            self._writers -= ends

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def resetting_proxy(to: int) -> Iterator[Proxy]:
    """A proxy to the port ``to``."""
    made = Proxy(to)
    made.start()
    try:
        yield made
    finally:
        made.stop()
