"""Files and trees into a sandbox and out of it: in parts, a few at a time, checked as a whole.

A part is an ordinary call, so it follows a lease that moves; one that failed is sent again as another call, which is
harmless, for a part says where it belongs. Only the last call of an upload makes anything to be seen in the sandbox,
and only the last step of a download on this machine.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from toolfleet.config.contract import Fault, Status, ToolResult, new_id
from toolfleet.config.errors import FleetError, RemoteFileError, TransferInterrupted
from toolfleet.config.tools.transfers import quoted
from toolfleet.producer import local_files, trees
from toolfleet.producer.trees import Tree
from toolfleet.producer.window import Window

if TYPE_CHECKING:
    from toolfleet.producer.trajectory import Trajectory

#: Bytes of one part, and parts of one transfer that are on their way at once.
PART, AT_ONCE = 2 * 1024 * 1024, 4
#: Bytes of the first part of a download. It waits in line with other calls, so it takes no permit of `Fleet.parts`.
FIRST = 256 * 1024
#: How often a part is sent before the transfer is given up.
TRIES = 4
#: Seconds for a part, and for what takes the whole file; profiles may allow less.
PART_TIMEOUT, WHOLE_TIMEOUT = 60.0, 600.0
#: Bytes that a download takes unless it is told otherwise.
MOST = 8 * 1024**3
#: Bytes that an archive may have beyond the contents of its files.
HEADS = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Moved:
    """A file that is now on both sides."""

    bytes: int
    sha256: str
    mode: int
    """Permission bits."""


class Transfer:
    """One upload or download of one trajectory."""

    def __init__(self, trajectory: "Trajectory") -> None:
        self._trajectory = trajectory
        self._stage = new_id("stage")
        self._generation = 0
        """Of the workspace in which it began; another one knows nothing of it."""

    async def upload(self, local: Path, remote: str, mode: int | None) -> Moved:
        """See `Trajectory.upload`."""
        file, status = await asyncio.to_thread(local_files.opened, local)
        with file, self._staged():
            size = status.st_size
            digest = await self._send(file, size)
            mode = stat.S_IMODE(status.st_mode) & trees.PERMISSIONS if mode is None else mode
            whole = {"stage": self._stage, "path": quoted(remote), "size": size, "sha256": digest, "mode": mode}
            await self._ask("commit_file", whole)
        return Moved(size, digest, mode)

    async def upload_dir(self, local: Path, remote: str) -> Tree:
        """See `Trajectory.upload_dir`."""
        with local_files.scratch(None) as archive:
            tree = await asyncio.to_thread(trees.pack, local, archive)
            with self._staged():
                size = os.fstat(archive.fileno()).st_size
                digest = await self._send(archive, size)
                whole = {"stage": self._stage, "path": quoted(remote), "size": size, "sha256": digest}
                await self._ask("unpack_tree", whole)
        return tree

    async def download(self, remote: str, local: Path, max_bytes: int) -> Moved:
        """See `Trajectory.download`."""
        source = {"path": quoted(remote)}
        known, first = await self._first(source, max_bytes)
        with local_files.beside(local) as (file, path):
            digest = await self._receive(source, known, first, file)
            mode = int(known["mode"]) & trees.PERMISSIONS
            await asyncio.to_thread(local_files.finish, file, path, local, mode)
        return Moved(int(known["size"]), digest, mode)

    async def download_dir(self, remote: str, local: Path, max_bytes: int) -> Tree:
        """See `Trajectory.download_dir`."""
        with self._staged():
            most = max_bytes + HEADS
            packed = await self._ask("pack_tree", {"path": quoted(remote), "stage": self._stage, "max_bytes": most})
            source = {"stage": self._stage}
            known, first = await self._first(source, most)
            with local_files.scratch(local_files.existing(local)) as archive:
                await self._receive(source, known, first, archive)
                self._drop()
                tree = await asyncio.to_thread(trees.extract, archive, local, max_bytes)
        tree.skipped += packed.detail["skipped"]
        return tree

    # -- parts

    async def _send(self, file: IO[bytes], size: int) -> str:
        """Bring ``file`` into the stage; its digest."""
        async with Window(AT_ONCE) as window:
            for offset in range(0, max(size, 1), PART):  # an empty file is a file
                await window.put(self._put(file, offset, min(PART, size - offset)))
        return await asyncio.to_thread(local_files.digest, file)

    async def _put(self, file: IO[bytes], offset: int, length: int) -> None:
        async with self._trajectory.parts:
            content = await asyncio.to_thread(local_files.read, file, offset, length)
            await self._ask("put_part", {"stage": self._stage, "offset": offset}, parallel=True, content=content)

    async def _first(self, source: Mapping[str, str], max_bytes: int) -> tuple[Mapping[str, Any], bytes]:
        """What is known of the file, and its first part. In line with other calls: it sees what those before it did."""
        arguments = {**source, "offset": 0, "length": FIRST, "digest": True}
        result, content = await self._get(arguments)
        if result.detail["size"] > max_bytes:
            raise RemoteFileError(f"the file has {result.detail['size']} bytes; max_bytes allows {max_bytes}")
        return result.detail, content

    async def _receive(self, source: Mapping[str, str], known: Mapping[str, Any], first: bytes, file: IO[bytes]) -> str:
        """Fill ``file`` with what ``source`` holds, checked; its digest."""
        await asyncio.to_thread(local_files.write, file, 0, first)
        size = int(known["size"])
        async with Window(AT_ONCE) as window:
            for offset in range(len(first), size, PART):
                await window.put(self._fill(source, known, offset, min(PART, size - offset), file))
        digest = known.get("sha256")
        if digest is None:
            result, _ = await self._get({**source, "offset": 0, "length": 0, "digest": True})
            _same(known, result.detail)
            digest = result.detail["sha256"]
        if await asyncio.to_thread(local_files.digest, file) != digest:
            raise RemoteFileError("the file changed while it was read, or was damaged on its way; try again")
        return str(digest)

    async def _fill(
        self, source: Mapping[str, str], known: Mapping[str, Any], offset: int, length: int, file: IO[bytes]
    ) -> None:
        """One part, by several calls where the runner has little memory."""
        while length:
            async with self._trajectory.parts:
                result, content = await self._get({**source, "offset": offset, "length": length}, parallel=True)
                _same(known, result.detail)
                if not content:
                    raise RemoteFileError("the file became shorter while it was read; try again")
                await asyncio.to_thread(local_files.write, file, offset, content)
            offset, length = offset + len(content), length - len(content)

    async def _get(self, arguments: Mapping[str, Any], *, parallel: bool = False) -> tuple[ToolResult, bytes]:
        for _ in range(TRIES):
            result = await self._ask("get_part", arguments, parallel=parallel)
            content = await self._trajectory.content_of(result)
            if content is not None and len(content) == result.detail["bytes"]:
                return result, content
        raise TransferInterrupted("Redis lost a part of the file on its way, again and again")

    # -- calls

    async def _ask(
        self, name: str, arguments: Mapping[str, Any], *, parallel: bool = False, content: bytes | None = None
    ) -> ToolResult:
        """Make a call of our own until it has an answer.

        Raises:
            RemoteFileError: the answer is no.
            TransferInterrupted: there is none to be had.
        """
        timeout = PART_TIMEOUT if parallel else WHOLE_TIMEOUT
        doubtful = False
        for _ in range(TRIES):
            result = await self._trajectory.own_call(name, arguments, timeout, parallel=parallel, content=content)
            self._generation = self._generation or result.workspace_generation
            if result.status is Status.LOST or result.workspace_generation not in (0, self._generation):
                raise TransferInterrupted(f"the workspace is gone: {result.error}")
            if result.fault is not Fault.INFRASTRUCTURE:
                break
            doubtful |= result.status is Status.UNKNOWN
        else:
            raise TransferInterrupted(f"{name} failed {TRIES} times: {result.error}")
        if result.status is Status.CANCELLED:
            raise TransferInterrupted(f"{name} was cancelled")
        if result.status is not Status.OK or result.error or result.exit_code:
            if doubtful:  # what is refused now may have been done, and its stage used up, by the try before
                raise TransferInterrupted(f"what became of {name} cannot be learnt: {result.error}")
            raise RemoteFileError(result.error or f"{name} ended with exit code {result.exit_code}")
        return result

    @contextlib.contextmanager
    def _staged(self) -> Iterator[None]:
        """Nothing of the stage is left in the sandbox when the block fails; when it succeeds, it is used up."""
        try:
            yield
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        async def drop() -> None:
            with contextlib.suppress(FleetError):  # closed meanwhile, and all its stages with it
                await self._trajectory.own_call("drop_stage", {"stage": self._stage}, PART_TIMEOUT, parallel=True)

        self._trajectory.errand(drop())


def _same(known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if known["version"] != now["version"]:
        raise RemoteFileError("the file changed while it was read; try again")
