"""The way into a VM: one SSH connection through MorphCloud's gateway, over which sessions are opened."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolfleet.backends.morphvm.account import Refused

if TYPE_CHECKING:
    import asyncssh

#: Seconds until a connection or a session must stand.
_ANSWER = 8.0
#: Seconds between two signs of life, and how many may stay away.
_KEEPALIVE, _MISSES = 10, 3
_CHUNK = 256 * 1024
#: The most of a session's last words that an error repeats, in bytes.
_WORDS = 2000


@dataclass(frozen=True, slots=True)
class Door:
    """Where to knock, and as whom."""

    host: str
    port: int
    user: str = field(repr=False)
    """May hold the account's key."""
    key: str | None = field(repr=False)
    """Private key in PEM; None takes one made up on the spot, where the user's name already says enough."""
    known_hosts: str | None


class Login:
    """The SSH connection to one VM, made again when it is gone.

    Methods raise OSError when there is none to be had, and `Refused` when there never will be.
    """

    def __init__(self, door: Callable[[], Awaitable[Door]]) -> None:
        self._door = door
        self._connection: asyncssh.SSHClientConnection | None = None
        self._connecting = asyncio.Lock()

    async def run(self, command: str, data: bytes = b"", patience: float = 30.0, until: bytes | None = None) -> str:
        """What a command prints that reads ``data`` and must succeed within ``patience`` seconds.

        With ``until`` it must print that, and is then left alone.

        Raises:
            OSError: it did not; the message is its own words.
        """
        session = await self.session(command)
        try:
            async with asyncio.timeout(patience):
                await session.write(data)
                session.end()
                said = b""
                while chunk := await session.read():
                    said += chunk
                    if until is not None and until in said:
                        break
                else:
                    if until is not None:
                        raise ConnectionResetError(f"it ended with {said[-_WORDS:].decode(errors='replace')!r}")
                return said.decode(errors="replace")
        finally:
            await session.close()

    async def session(self, command: str) -> "Session":
        """Start a command; its standard streams are a `toolfleet.backends.transports.ByteStream`."""
        with _as_oserror():
            connection = await self._connected()
            async with asyncio.timeout(_ANSWER):
                return Session(await connection.create_process(command, encoding=None, term_type=None))

    async def close(self) -> None:
        """Hang up; the next session connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER):
                    await connection.wait_closed()

    async def _connected(self) -> "asyncssh.SSHClientConnection":
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                self._connection = await _knock(await self._door())
            return self._connection


class Session:
    """One command in the VM."""

    def __init__(self, process: "asyncssh.SSHClientProcess[bytes]") -> None:
        self._process = process

    async def read(self) -> bytes:
        """The next bytes of its output; empty when it has ended well.

        Raises:
            OSError: it has failed, or the connection has; a session that just stops has not ended well.
        """
        with _as_oserror():
            if data := await self._process.stdout.read(_CHUNK):
                return data
            words = (await self._process.stderr.read(_WORDS)).decode(errors="replace").strip()
            await self._process.wait_closed()
        if self._process.exit_status != 0:
            raise ConnectionResetError(words or f"the session ended with {self._process.exit_status}")
        return b""

    async def write(self, data: bytes) -> None:
        """Write to its standard input."""
        with _as_oserror():
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    def end(self) -> None:
        """No more input."""
        self._process.stdin.write_eof()

    async def close(self) -> None:
        """End the session."""
        self._process.close()
        with contextlib.suppress(TimeoutError), _as_oserror():
            async with asyncio.timeout(_ANSWER):
                await self._process.wait_closed()


async def _knock(door: Door) -> "asyncssh.SSHClientConnection":
    import asyncssh

    asyncssh.set_log_level("WARNING")  # below that it tells the user's name, which may hold the account's key
    key = asyncssh.generate_private_key("ssh-ed25519") if door.key is None else asyncssh.import_private_key(door.key)
    try:
        return await asyncssh.connect(
            door.host,
            door.port,
            username=door.user,
            client_keys=[key],
            known_hosts=door.known_hosts,
            agent_path=None,
            config=None,
            preferred_auth="publickey",
            connect_timeout=_ANSWER,
            login_timeout=_ANSWER,
            keepalive_interval=_KEEPALIVE,
            keepalive_count_max=_MISSES,
        )
    except asyncssh.PermissionDenied:  # whose words repeat the user's name, as does its traceback
        raise ConnectionRefusedError(f"the SSH gateway {door.host} refuses the login") from None
    except asyncssh.HostKeyNotVerifiable:
        raise Refused(f"the host key of the SSH gateway {door.host} is not among those in {door.known_hosts}") from None


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    """The library's errors, as what a connector may raise."""
    import asyncssh

    try:
        yield
    except asyncssh.Error as error:
        raise ConnectionResetError(f"SSH: {error.reason or type(error).__name__}") from error
