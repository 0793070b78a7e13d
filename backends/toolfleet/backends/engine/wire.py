"""Connections that the engine turns from HTTP into a pair of byte streams: an attach or an exec.

The SDK offers them as blocking sockets, one thread each; here they are streams of the event loop, over whatever leads
to the engine: a unix socket, TCP, TLS, or ``docker system dial-stdio`` at the far end of an ssh.
"""

import asyncio
import contextlib
import json
import ssl
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from toolfleet.backends.engine.client import Endpoint

_HEADER = struct.Struct("!BxxxI")
_STDERR = 2
_CHUNK = 256 * 1024
#: The most of standard error that is kept, in bytes.
_WORDS = 4000
_ANSWER = 30.0


class Wire:
    """Standard streams of a process in a container; a `toolfleet.backends.transports.ByteStream`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ssh: "_Ssh | None") -> None:
        self._reader = reader
        self._writer = writer
        self._ssh = ssh
        self._left = 0
        """Bytes of standard output that are still to come of the current frame."""
        self._words = b""

    @classmethod
    async def open(cls, endpoint: Endpoint, path: str, body: Mapping[str, Any] | None = None) -> "Wire":
        """Ask for the stream behind ``path``.

        Raises:
            OSError: the engine cannot be reached or refuses.
        """
        async with asyncio.timeout(_ANSWER):
            wire = cls(*await _dial(endpoint))
            try:
                await wire._upgrade(path, json.dumps(body or {}).encode())
            except BaseException:
                await wire.close()
                raise
            return wire

    @property
    def words(self) -> str:
        """What came on standard error."""
        return self._words.decode(errors="replace").strip()

    async def read(self) -> bytes:
        """The next bytes of standard output; empty at the end.

        Raises:
            ConnectionResetError: it has ended with words on standard error.
        """
        while not self._left:
            try:
                stream, length = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
                if stream != _STDERR:
                    self._left = length
                    continue
                self._words = (self._words + await self._reader.readexactly(length))[-_WORDS:]
            except asyncio.IncompleteReadError:
                if self._words:
                    raise ConnectionResetError(self.words) from None
                return b""
        data = await self._reader.read(min(self._left, _CHUNK))
        self._left -= len(data)
        if not data:
            self._left = 0
        return data

    async def write(self, data: bytes) -> None:
        """Write to standard input."""
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        if self._ssh is not None:
            await self._ssh.end()
        else:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_ANSWER):
                    await self._writer.wait_closed()

    async def _upgrade(self, path: str, body: bytes) -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        self._writer.write(head.encode("ascii") + body)
        try:
            answer = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            words = error.partial.decode(errors="replace").strip()
            raise ConnectionResetError(words or "the Docker engine hung up") from None
        except asyncio.LimitOverrunError as error:
            raise ConnectionResetError("the Docker engine does not speak HTTP") from error
        status = answer.split(b"\r\n", 1)[0]
        if status.split(b" ")[1:2] not in ([b"101"], [b"200"]):
            refusal = await self._reader.read(_WORDS)
            raise ConnectionRefusedError(
                f"{status.decode(errors='replace')}: {refusal.decode(errors='replace').strip()}"
            )


class _Ssh:
    """The ssh that leads to the engine."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


async def _dial(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, _Ssh | None]:
    url = urlsplit(endpoint.url)
    if endpoint.local:
        return *await asyncio.open_unix_connection(endpoint.path), None
    if url.scheme == "ssh":
        return await _dial_ssh(url.hostname or "", url.port, url.username)
    context = await asyncio.to_thread(_tls, endpoint) if endpoint.tls is not None else None
    port = url.port or (2376 if context else 2375)
    return *await asyncio.open_connection(url.hostname, port, ssl=context), None


async def _dial_ssh(
    host: str, port: int | None, user: str | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, _Ssh]:
    argv = ["ssh", "-T", "-o", "BatchMode=yes", *(["-p", str(port)] if port else []), *(["-l", user] if user else [])]
    process = await asyncio.create_subprocess_exec(
        *argv,
        "--",
        host,
        "docker system dial-stdio",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdout is None or process.stdin is None:
        raise ConnectionError("ssh has no standard streams")
    return process.stdout, process.stdin, _Ssh(process)


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    config = endpoint.tls
    context = ssl.create_default_context(cafile=getattr(config, "ca_cert", None))
    if config is not None and config.cert is not None:
        context.load_cert_chain(*config.cert)
    if config is not None and not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
