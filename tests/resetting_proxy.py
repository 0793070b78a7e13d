"""A TCP proxy whose connections can be reset, in the middle of whatever they carry."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

#: Bytes taken from one side at once: few, so that a reset falls between the parts of a command or of an answer.
CHUNK = 512


class Proxy:
    """Connections from ``port`` to another port of this machine."""

    def __init__(self, to: int) -> None:
        self.port = 0
        self._to = to
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> asyncio.Server:
        """Listen."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def reset(self) -> None:
        """End all connections with RST, on both sides."""
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
        self._writers |= {writer, there}
        try:
            await asyncio.gather(self._pump(reader, there), self._pump(there_reader, writer))
        finally:
            self._writers -= {writer, there}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def resetting_proxy(to: int) -> AsyncIterator[Proxy]:
    """A proxy to the port ``to``."""
    made = Proxy(to)
    server = await made.start()
    try:
        yield made
    finally:
        made.reset()
        server.close()
        await server.wait_closed()
