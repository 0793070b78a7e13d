"""The two ways from a worker to the runner in a container, from its boot message on."""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from toolfleet.backends.channel import Line, unix
from toolfleet.backends.engine import spec
from toolfleet.backends.engine.client import Engine, EngineError, EngineGone
from toolfleet.backends.engine.wire import Wire
from toolfleet.backends.local import records
from toolfleet.backends.local.records import Directory
from toolfleet.backends.runner import config as boot
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.seal import new_secret
from toolfleet.backends.runtime import Bundle
from toolfleet.backends.transports import ByteStream, piped, sealed

#: Begins the address of a runner that is reached through relays; the relay's command as JSON follows.
RELAY = "relay:"
_SECRET = "secret"  # noqa: S105 - the name of a file
_BOOT_SOCKET = "boot.sock"


class Way(Protocol):
    """How one sandbox is booted and reached."""

    address: str
    secret: str
    """See `toolfleet.backends.base.SandboxRef`."""
    argv: list[str]
    """The runner's command."""
    binds: list[str]
    interactive: bool
    """The container needs a standard input."""
    helpers: int
    """Processes of ours in the container: the runner, and a relay where there is one."""

    async def boot(self, wire: Wire, config: Config) -> None:
        """Hand the starting runner its configuration."""
        ...

    def close(self) -> None:
        """Release what only the start needs."""
        ...


class BySocket:
    """A socket on this machine, handed to the runner: no path in the sandbox leads to it.

    The runner fetches it, with its configuration, from a second socket, which has only one visitor and is gone before
    any command runs.
    """

    interactive = False
    helpers = 1

    def __init__(self, directory: Directory, bundle: Bundle, binds: list[str]) -> None:
        self.address = str(directory.socket)
        self.secret = ""
        self.argv = bundle.argv(spec.RUNTIME, "fetch", f"{spec.BOOT}/{_BOOT_SOCKET}", program="standalone")
        self._place = directory.path / "boot"
        self._place.mkdir(mode=0o755)
        self._place.chmod(0o755)
        self.binds = [*binds, f"{self._place}:{spec.BOOT}:ro"]
        self._listener = directory.listen()
        self._boot = records.listen(self._place / _BOOT_SOCKET, socket.SOCK_SEQPACKET, 1)
        self._boot.setblocking(False)
        # Whatever the user of the sandbox is; only the sandbox and we can get to it.
        (self._place / _BOOT_SOCKET).chmod(0o666)

    async def boot(self, wire: Wire, config: Config) -> None:
        """See `Way.boot`."""
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        loop.add_reader(self._boot, _set, called)
        try:
            await called
        finally:
            loop.remove_reader(self._boot)
        with self._boot.accept()[0] as channel:
            (self._place / _BOOT_SOCKET).unlink()
            boot.send(channel, config, {"listener": self._listener.fileno()})

    def close(self) -> None:
        """See `Way.close`."""
        self._boot.close()
        self._listener.close()


class ByRelay:
    """A socket in the sandbox, sealed, and an exec for each connection: works wherever the engine is."""

    interactive = True
    helpers = 2

    def __init__(self, directory: Directory, bundle: Bundle, binds: list[str]) -> None:
        name = f"@toolfleet-{directory.id}"
        self.address = RELAY + json.dumps(bundle.argv(spec.RUNTIME, name, program="relay"))
        self.argv = bundle.argv(spec.RUNTIME, "listen", name, program="standalone")
        self.binds = binds
        self._secret = new_secret()
        self.secret = self._secret.hex()
        descriptor = os.open(directory.path / _SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.secret)

    async def boot(self, wire: Wire, config: Config) -> None:
        """See `Way.boot`."""
        await wire.write(boot.line(config, self._secret))

    def close(self) -> None:
        """See `Way.close`."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What it takes to connect to a runner, wherever its sandbox was made."""

    engine: Engine
    container: str
    address: str
    secret: str

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> Line:
        """Connect to it, see `toolfleet.backends.channel.Connector`."""
        if not self.address.startswith(RELAY):
            return await unix(self.address)(factory)
        if not self.secret:
            raise PermissionError(f"the secret of {self.container} is not known here")
        return await sealed(piped(self._relay), bytes.fromhex(self.secret))(factory)

    async def _relay(self) -> ByteStream:
        command = json.loads(self.address.removeprefix(RELAY))
        try:
            made = await self.engine.call(
                lambda client: client.exec_create(self.container, command, stdin=True, stdout=True, stderr=True)
            )
        except (EngineError, EngineGone) as error:
            raise ConnectionRefusedError(str(error)) from error
        path = f"/v{await self.engine.version()}/exec/{made['Id']}/start"
        return await Wire.open(await self.engine.endpoint(), path, {"Detach": False, "Tty": False})


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def kept_secret(directory: Directory) -> str:
    """The secret of a sandbox that was made on this machine; empty where there is none."""
    try:
        return (directory.path / _SECRET).read_text()
    except OSError:
        return ""
