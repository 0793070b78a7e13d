"""Files and trees between this machine and a sandbox, answered in the shapes of a ToolContext."""

from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolfleet.config.errors import ToolfleetError
from toolfleet.producer.adapters.shapes import Reply


class OutsideRoot(Exception):
    """A path on this machine lies outside the folder to which transfers are confined."""


class Mover(Protocol):
    """The part of a `Trajectory` that moves files."""

    async def upload(self, local: Path, remote: str) -> object: ...
    async def upload_dir(self, local: Path, remote: str) -> object: ...
    async def download(self, remote: str, local: Path) -> object: ...
    async def download_dir(self, remote: str, local: Path) -> object: ...


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

    mover: Mover
    root: Path | None
    error: Exception | None = None
    """Why the last transfer failed."""

    async def upload_file(self, local: str, remote: str) -> Reply:
        """``exit_code`` and ``output``, as of the command that had put the file there."""
        try:
            path = confined(self.root, local)
        except OutsideRoot as error:
            return _not_put(str(error))
        if not path.is_file():
            return _not_put(f"Local file not found: {local}")
        why = await self._attempt(self.mover.upload(path, remote))
        return _not_put(why) if why else _put(path.stat().st_size)

    async def upload_dir(self, local: str, remote: str) -> list[Reply]:
        """One reply for each regular file, in the order of their names."""
        try:
            folder = confined(self.root, local)
        except OutsideRoot as error:
            return [_not_put(str(error))]
        if not folder.is_dir():
            return [_not_put(f"Local directory not found: {local}")]
        sizes = [path.stat().st_size for path in _regular_files(folder)]
        why = await self._attempt(self.mover.upload_dir(folder, remote))
        return [_not_put(why)] if why else [_put(size) for size in sizes]

    async def download_file(self, remote: str, local: str) -> Reply:
        """``success`` and ``bytes``, or ``error``."""
        try:
            path = confined(self.root, local)
        except OutsideRoot as error:
            return _not_got(str(error))
        path.parent.mkdir(parents=True, exist_ok=True)
        why = await self._attempt(self.mover.download(remote, path))
        return _not_got(f"Failed to read remote file: {why}") if why else _got(path)

    async def download_dir(self, remote: str, local: str) -> list[Reply]:
        """One reply for each regular file that is there afterwards, in the order of their names."""
        try:
            folder = confined(self.root, local)
        except OutsideRoot as error:
            return [_not_got(str(error))]
        folder.parent.mkdir(parents=True, exist_ok=True)
        why = await self._attempt(self.mover.download_dir(remote, folder))
        return (
            [_not_got(f"Failed to list remote dir: {why}")] if why else [_got(path) for path in _regular_files(folder)]
        )

    async def _attempt(self, work: Coroutine[Any, Any, object]) -> str:
        """Why ``work`` failed; empty when it did not."""
        try:
            await work
        except (ToolfleetError, OSError) as error:
            self.error = error
            return str(error) or type(error).__name__
        return ""


def _regular_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]


def _put(size: int) -> Reply:
    return {"output": "", "exit_code": 0, "error": None, "bytes": size}


def _not_put(why: str) -> Reply:
    return {"output": why, "exit_code": -1, "error": why}


def _got(path: Path) -> Reply:
    return {"success": True, "bytes": path.stat().st_size}


def _not_got(why: str) -> Reply:
    return {"success": False, "error": why}
