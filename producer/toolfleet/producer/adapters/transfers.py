"""Files and trees between this machine and a sandbox, answered in the shapes of a ToolContext."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from toolfleet.config.errors import FleetError, InvalidCall, TransferError, TransferInterrupted
from toolfleet.producer.adapters.shapes import Reply
from toolfleet.producer.trajectory import Trajectory


class OutsideRoot(Exception):
    """A path on this machine lies outside the folder to which transfers are confined."""


_FAILURES = (FleetError, InvalidCall, OSError, OutsideRoot, TransferError)


def confined(root: Path | None, local: str | Path) -> Path:
    """``local`` as a path of this machine, relative ones below ``root``; None confines nothing.

    Raises:
        OutsideRoot: it leads out of ``root``, by itself or by a symbolic link.
    """
    if root is None:
        return Path(local)
    inside = root.resolve()
    path = (inside / local).resolve()
    if not path.is_relative_to(inside):
        raise OutsideRoot(f"Local path is outside {root}: {local}")
    return path


@dataclass
class Transfers:
    """Moves files for a ToolContext; paths of this machine stay below ``root`` unless that is None."""

    trajectory: Trajectory
    root: Path | None
    error: Exception | None = None
    """Why the fleet, the sandbox or this machine did not carry out the last transfer."""

    @property
    def interrupted(self) -> bool:
        """It failed by the infrastructure's fault."""
        return isinstance(self.error, FleetError | TransferInterrupted)

    async def upload_file(self, local: str, remote: str) -> Reply:
        """``exit_code`` and ``output``, as of the command that had put the file there."""
        try:
            path = confined(self.root, local)
            if not path.is_file():
                return _not_put(f"Local file not found: {local}")
            return _put((await self.trajectory.upload(path, remote)).bytes)
        except _FAILURES as error:
            return _not_put(self._told(error))

    async def upload_dir(self, local: str, remote: str) -> list[Reply]:
        """One reply for each regular file, in the order of their names."""
        try:
            folder = confined(self.root, local)
            if not folder.is_dir():
                return [_not_put(f"Local directory not found: {local}")]
            sizes = await asyncio.to_thread(_sizes, folder)
            await self.trajectory.upload_dir(folder, remote)
            return [_put(size) for size in sizes]
        except _FAILURES as error:
            return [_not_put(self._told(error))]

    async def download_file(self, remote: str, local: str) -> Reply:
        """``success`` and ``bytes``, or ``error``."""
        try:
            path = confined(self.root, local)
            path.parent.mkdir(parents=True, exist_ok=True)
            return _got((await self.trajectory.download(remote, path)).bytes)
        except OutsideRoot as error:
            return _not_got(str(error))
        except _FAILURES as error:
            return _not_got(f"Failed to read remote file: {self._told(error)}")

    async def download_dir(self, remote: str, local: str) -> list[Reply]:
        """One reply for each regular file that is there afterwards, in the order of their names."""
        try:
            folder = confined(self.root, local)
            folder.parent.mkdir(parents=True, exist_ok=True)
            await self.trajectory.download_dir(remote, folder)
            return [_got(size) for size in await asyncio.to_thread(_sizes, folder)]
        except OutsideRoot as error:
            return [_not_got(str(error))]
        except _FAILURES as error:
            return [_not_got(f"Failed to list remote dir: {self._told(error)}")]

    def _told(self, error: Exception) -> str:
        self.error = error
        return str(error)


def _sizes(folder: Path) -> list[int]:
    """Bytes of the regular files below ``folder``, in the order of their names."""
    return [path.lstat().st_size for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]


def _put(size: int) -> Reply:
    return {"output": "", "exit_code": 0, "error": None, "bytes": size}


def _not_put(why: str) -> Reply:
    return {"output": why, "exit_code": -1, "error": why}


def _got(size: int) -> Reply:
    return {"success": True, "bytes": size}


def _not_got(why: str) -> Reply:
    return {"success": False, "error": why}
