"""A process of a sandbox with its three streams: stdin by offset, stdout and stderr as spools."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from grpclib import GRPCError, Status
from standins.modal.spool import Spool


class Process:
    """Started by `start`; what it has become is the future ``ended``: an exit code, negative after a signal."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.pid = process.pid
        self.stdout, self.stderr = Spool(folder), Spool(folder)
        self.ended: asyncio.Task[int] = asyncio.create_task(process.wait())
        self._process = process
        self.written = 0
        self.closed = False
        self._index = 0
        self._stdin = asyncio.Lock()
        assert process.stdout is not None
        assert process.stderr is not None
        self._pumps = [
            asyncio.create_task(self.stdout.fill(process.stdout)),
            asyncio.create_task(self.stderr.fill(process.stderr)),
        ]

    async def write(self, offset: int, data: bytes, *, eof: bool) -> None:
        """Write ``data``, which begins at ``offset`` of the stream; what has been written before is skipped.

        Raises:
            GRPCError: something before it is missing.
        """
        async with self._stdin:  # a repeated write must find what the first one did
            if offset > self.written:
                raise GRPCError(Status.OUT_OF_RANGE, f"stdin ends at {self.written}, not at {offset}")
            fresh = data[self.written - offset :]
            assert self._process.stdin is not None
            if fresh and not self.closed:
                self._process.stdin.write(fresh)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    await self._process.stdin.drain()
            self.written += len(fresh)
            if eof and not self.closed:
                self.closed = True
                self._process.stdin.close()

    async def append(self, index: int, data: bytes, *, eof: bool) -> None:
        """Write ``data`` as the message of that number, from 1; one that has come before is skipped."""
        if index > self._index:
            self._index = index
            await self.write(self.written, data, eof=eof)

    def kill(self) -> None:
        """Kill what runs in the sandbox; nsenter, which waits for it outside, then ends by itself."""
        for child in children(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    async def close(self) -> None:
        """Wait until it has ended and everything it printed is there."""
        await asyncio.wait([self.ended, *self._pumps])


def children(pid: int) -> list[int]:
    """The children of a process, none when it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


async def start(argv: Sequence[str], env: Mapping[str, str], folder: Path, pass_fds: Sequence[int] = ()) -> Process:
    """Start ``argv`` with nothing but ``env``."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *argv, env=dict(env), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, pass_fds=pass_fds, cwd="/"
    )
    return Process(process, folder)
