"""The SSH gateway: one server for all instances; the user name says which one is meant."""

import asyncio
import contextlib

import asyncssh
from standins.morph.cloud import Cloud, Conflict, Missing

_CHUNK = 65536


class Gateway:
    """Lets in ``<instance>`` with the instance's own key, and ``<instance>:<api key>`` with any key."""

    def __init__(self, cloud: Cloud, api_key: str) -> None:
        self._cloud = cloud
        self._api_key = api_key
        self._server: asyncssh.SSHAcceptor | None = None
        self.connections: dict[str, set[asyncssh.SSHServerConnection]] = {}
        self.refused = 0
        """How many of the next connections are hung up on."""

    async def listen(self) -> int:
        """Serve on a free port of the loopback interface, which is returned."""
        self._server = await asyncssh.create_server(
            self._doorman,
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            process_factory=self._run,
            encoding=None,
        )
        return self._server.get_port()

    def _doorman(self) -> "_Doorman":
        welcome = self.refused == 0
        self.refused -= not welcome
        return _Doorman(self._cloud, self._api_key, self.connections, welcome)

    async def _run(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        """One command of one connection; it sees the end of its input when the connection ends, as under sshd."""
        name = process.get_extra_info("username").partition(":")[0]
        try:
            instance = self._cloud.instance(name)
            if instance.status == "paused" and instance.wake_on["wake_on_ssh"]:
                await self._cloud.resume(instance)
            instance = self._cloud.ready(name)
        except (Missing, Conflict) as error:
            process.stderr.write(f"{error}\n".encode())
            process.exit(255)
            return
        command = ["/bin/sh", *(["-c", process.command] if process.command else [])]
        child = await instance.machine.spawn(command, stdin=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        assert child.stderr is not None
        feeding = asyncio.ensure_future(_feed(process, child))
        streams = ((child.stdout, process.stdout), (child.stderr, process.stderr))
        try:
            await asyncio.gather(*(_tell(source, target) for source, target in streams))
            code = await child.wait()
            process.exit(code if code >= 0 else 128 - code)
        finally:
            feeding.cancel()

    def cut(self, instance: str, refuse: int = 0) -> int:
        """Abort the connections of an instance, and the next ``refuse`` ones of any; how many there were."""
        self.refused += refuse
        connections = self.connections.get(instance, set())
        for connection in list(connections):
            connection.abort()
        return len(connections)

    async def close(self) -> None:
        """Hang up on everybody."""
        for instance in list(self.connections):
            self.cut(instance)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


async def _feed(process: "asyncssh.SSHServerProcess[bytes]", child: asyncio.subprocess.Process) -> None:
    """What the client says, until it hangs up."""
    assert child.stdin is not None
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await process.stdin.read(_CHUNK):
            child.stdin.write(data)
            await child.stdin.drain()
    child.stdin.close()


async def _tell(source: asyncio.StreamReader, target: "asyncssh.SSHWriter[bytes]") -> None:
    """What the command says; a client that has hung up misses it."""
    while data := await source.read(_CHUNK):
        with contextlib.suppress(OSError, asyncssh.Error):
            target.write(data)
            await target.drain()


class _Doorman(asyncssh.SSHServer):
    """Decides about one connection."""

    def __init__(
        self, cloud: Cloud, api_key: str, connections: dict[str, set[asyncssh.SSHServerConnection]], welcome: bool
    ) -> None:
        self._cloud = cloud
        self._api_key = api_key
        self._connections = connections
        self._welcome = welcome
        self._connection: asyncssh.SSHServerConnection | None = None
        self._instance = ""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        if not self._welcome:
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.get(self._instance, set()).discard(self._connection)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._instance, _, api_key = username.partition(":")
        instance = self._cloud.instances.get(self._instance)
        if instance is None:
            return False
        if api_key:
            return api_key == self._api_key
        return key.public_data == instance.key.public_data

    def auth_completed(self) -> None:
        if self._connection is not None:
            self._connections.setdefault(self._instance, set()).add(self._connection)
