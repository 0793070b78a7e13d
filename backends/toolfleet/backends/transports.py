"""Ways to a runner that no socket of this machine leads to, as connectors for a `Channel`.

`piped` turns any pair of byte streams into a connector: the standard streams of a relay (``runner.relay``) that an
engine has started, by an exec, over SSH or as a local process (`command`). Such ways pass through the sandbox, so they
are `sealed`.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from toolfleet.backends.channel import RELEASE, Connector, Line
from toolfleet.backends.runner.seal import Seal, SealBroken

#: Bytes that wait to be written before the channel is told to pause, and how few they must be for it to go on.
_FULL, _DRAINED = 2 * 1024 * 1024, 256 * 1024
_CHUNK = 256 * 1024
#: The most of a relay's last words that an error repeats, in bytes.
_WORDS = 2000


#: Pumps at work. Neither the loop nor a stream refers to them: one whose channel was dropped would be collected alive.
_pumping: set[asyncio.Task[None]] = set()


class ByteStream(Protocol):
    """Both directions of one relay; an OSError from any method ends the connection."""

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Write all of ``data``; returns when more may follow."""
        ...

    async def close(self) -> None:
        """End the relay and release what belongs to it. Called once."""
        ...


def piped(start: Callable[[], Awaitable[ByteStream]]) -> Connector:
    """A connector that starts a new relay for every connection."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> Line:
        return _Pump(await start(), factory())

    return connect


def command(*argv: str, env: Mapping[str, str] | None = None) -> Connector:
    """A connector over the standard streams of a local process, e.g. ``ssh HOST relay...``; it is killed at the end."""

    async def start() -> ByteStream:
        words = os.memfd_create("words", os.MFD_CLOEXEC)
        try:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=words, env=env)
        except BaseException:
            os.close(words)
            raise
        return _Process(process, words)

    return piped(start)


def sealed(connect: Connector, secret: bytes) -> Connector:
    """Prove and protect what passes over another connector, see ``runner.seal``."""

    async def connect_sealed(factory: Callable[[], asyncio.Protocol]) -> Line:
        seal = Seal(secret, "host")
        inner = _Unsealing(factory(), seal)
        line = await connect(lambda: inner)
        inner.line = line
        try:
            line.write(seal.nonce)
            await inner.agreed
        except BaseException:
            line.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELEASE):
                    await inner.lost.wait()
            raise
        return _Sealing(line, seal)

    return connect_sealed


class _Sealing:
    """The writing half."""

    def __init__(self, line: Line, seal: Seal) -> None:
        self._line = line
        self._seal = seal

    def write(self, data: bytes) -> None:
        self._line.write(self._seal.close(data))

    def abort(self) -> None:
        self._line.abort()


class _Unsealing(asyncio.Protocol):
    """The reading half: hands on what is proved, and hangs up on the rest."""

    line: Line

    def __init__(self, inner: asyncio.Protocol, seal: Seal) -> None:
        self.agreed = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self._inner = inner
        self._seal = seal
        self._broken: SealBroken | None = None

    def data_received(self, data: bytes) -> None:
        if self._broken is not None:
            return
        try:
            payload = self._seal.open(data)
        except SealBroken as error:
            self._broken = error
            self.line.abort()
            return
        if self._seal.ready and not self.agreed.done():
            self.agreed.set_result(None)
        if payload:
            self._inner.data_received(payload)

    def connection_lost(self, exc: Exception | None) -> None:
        exc = self._broken or exc
        if not self.agreed.done():
            self.agreed.set_exception(ConnectionResetError(str(exc) if exc else "it hung up"))
        self.lost.set()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class _Pump:
    """Moves bytes between a stream and a protocol, on a task of its own, until either has enough."""

    def __init__(self, stream: ByteStream, protocol: asyncio.Protocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._waiting: list[bytes] = []
        self._size = 0
        self._paused = False
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        task = asyncio.create_task(self._run())
        _pumping.add(task)
        task.add_done_callback(_pumping.discard)

    def write(self, data: bytes) -> None:
        """Have ``data`` written as soon as it can be."""
        self._waiting.append(data)
        self._size += len(data)
        self._some.set()
        if self._size > _FULL and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def abort(self) -> None:
        """Hang up."""
        self._enough.set()

    async def _run(self) -> None:
        ended: Exception | None = None
        tasks = [asyncio.create_task(work) for work in (self._read(), self._write(), self._aborted())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended = next((error for task in done if isinstance(error := task.exception(), Exception)), None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(OSError):
                await self._stream.close()
            self._protocol.connection_lost(ended)

    async def _aborted(self) -> None:
        await self._enough.wait()

    async def _read(self) -> None:
        while data := await self._stream.read():
            self._protocol.data_received(data)

    async def _write(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            data, self._waiting = b"".join(self._waiting), []
            await self._stream.write(data)
            self._size -= len(data)
            if self._paused and self._size < _DRAINED:
                self._paused = False
                self._protocol.resume_writing()


class _Process:
    """The standard streams of a local process."""

    def __init__(self, process: asyncio.subprocess.Process, words: int) -> None:
        assert process.stdin is not None  # noqa: S101 - both were asked for
        assert process.stdout is not None  # noqa: S101
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._words = words

    async def read(self) -> bytes:
        data = await self._stdout.read(_CHUNK)
        if not data and await self._process.wait():
            words = os.pread(self._words, _WORDS, 0).decode(errors="replace").strip()
            raise ConnectionResetError(words or f"the relay ended with {self._process.returncode}")
        return data

    async def write(self, data: bytes) -> None:
        self._stdin.write(data)
        await self._stdin.drain()

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._stdin.close()
        await self._process.wait()
        os.close(self._words)
