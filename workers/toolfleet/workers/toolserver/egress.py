"""Where tools may connect to: a SOCKS5 proxy on loopback that refuses what is not public.

A tool server often stands where it reaches more than a model should: the metadata service of its cloud, databases,
other machines. Names are resolved here, once, and the address that was checked is the one that is connected to, so
neither a redirect nor a name that changes its address leads past the check.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from toolfleet.config.settings import Network
from toolfleet.config.tools import ToolFailed

log = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Seconds until a connection must be there.
CONNECT_TIMEOUT = 10.0
#: Connections at once; more wait in the kernel's line.
CONNECTIONS = 512
#: Bytes that are passed on at a time.
CHUNK = 64 * 1024

#: Public by its number, and yet only the machine's own: the platform service of Azure.
_OF_THE_MACHINE = {ipaddress.ip_address("168.63.129.16")}
#: An IPv4 address is reached through these (NAT64); it stands in the last 32 bits.
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")

_VERSION, _CONNECT, _NO_AUTHORISATION = 5, 1, 0
_IPV4, _NAME, _IPV6 = 1, 3, 4
_DONE, _NOT_ALLOWED, _UNREACHABLE, _UNSUPPORTED = 0, 2, 4, 7


class Refused(ToolFailed):
    """No tool may connect there; the message says why."""


def public(address: Address) -> bool:
    """Whether an address belongs to the internet at large, whichever way it is written."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
    return address.is_global and not address.is_multicast and address not in _OF_THE_MACHINE


class Egress:
    """The proxy. Give `url` to whatever connects on behalf of a tool."""

    def __init__(self, allow: Sequence[Network] = ()) -> None:
        self._allow = tuple(allow)
        self._server: asyncio.Server | None = None
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        if self._server is None:
            raise AssertionError("start comes first")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"socks5://{host}:{port}"

    async def start(self) -> None:
        """Listen on a port of loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        """Stop listening, and break off what is open."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._open):
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def check(self, url: str) -> None:
        """See that a tool may go to ``url``.

        Raises:
            Refused: it may not.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise Refused(f"not a URL: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise Refused("only http:// and https:// URLs with a host can be opened")
        await self._resolve(host, port)

    async def _resolve(self, host: str, port: int) -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectionError(f"{host[:200]} has no address: {error}") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [text for text in addresses if self._allowed(ipaddress.ip_address(text))]
        if not allowed:
            raise Refused(f"{host[:200]} is not a public address, and the tool server allows no other")
        return allowed

    def _allowed(self, address: Address) -> bool:
        return public(address) or any(address in network for network in self._allow)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a connection is served by a task")
        self._open.add(task)
        try:
            async with self._free:
                await self._serve(reader, writer)
        except (OSError, EOFError, ValueError) as error:
            log.debug("a connection ended: %s", error)
        except asyncio.CancelledError:
            log.debug("a connection was broken off")
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            version, methods = await reader.readexactly(2)
            await reader.readexactly(methods)
            writer.write(bytes([_VERSION, _NO_AUTHORISATION]))
            version, command, _, kind = await reader.readexactly(4)
            if version != _VERSION or command != _CONNECT:
                await _answer(writer, _UNSUPPORTED)
                return
            host = await _read_host(reader, kind)
            port = int.from_bytes(await reader.readexactly(2), "big")
        try:
            far_reader, far_writer = await self._connect(host, port)
        except Refused as why:
            log.warning("refused a connection of a tool: %s", why)
            await _answer(writer, _NOT_ALLOWED)
            return
        except OSError:
            await _answer(writer, _UNREACHABLE)
            return
        try:
            await _answer(writer, _DONE)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(reader, far_writer))
                both.create_task(_pass_on(far_reader, writer))
        finally:
            far_writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failure: OSError = ConnectionError(f"{host[:200]} has no address")
        for address in await self._resolve(host, port):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    return await asyncio.open_connection(address, port)
            except OSError as error:  # TimeoutError is one
                failure = error
        raise failure


async def _read_host(reader: asyncio.StreamReader, kind: int) -> str:
    if kind == _NAME:
        length = (await reader.readexactly(1))[0]
        return (await reader.readexactly(length)).decode("ascii")
    if kind not in (_IPV4, _IPV6):
        raise ValueError(f"unknown kind of address: {kind}")
    return str(ipaddress.ip_address(await reader.readexactly(4 if kind == _IPV4 else 16)))


async def _answer(writer: asyncio.StreamWriter, code: int) -> None:
    writer.write(bytes([_VERSION, code, 0, _IPV4, 0, 0, 0, 0, 0, 0]))
    await writer.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
