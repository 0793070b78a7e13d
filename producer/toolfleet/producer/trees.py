"""Directories of this machine as archives, and archives as directories. Everything here blocks.

What comes out of a sandbox may be anything: its names and links decide nothing about where something is written.
"""

import contextlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from toolfleet.config.errors import LocalFileError, RemoteFileError

#: Directories below one another that a tree may have.
DEEPEST = 200
#: Entries that a tree may have.
MOST_ENTRIES = 500_000
#: What of a mode is kept: a set-user-id bit has no business beyond the machine on which it was set.
PERMISSIONS = 0o777

_CHUNK = 1024 * 1024


@dataclass
class Tree:
    """What was moved."""

    entries: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    """Names of what was left out: links that lead out of the tree, devices, sockets, FIFOs."""


def pack(root: Path, archive: IO[bytes]) -> Tree:
    """Write what is below ``root`` into ``archive``, without owners.

    Raises:
        LocalFileError: it is no directory, or something in it cannot be read.
    """
    tree = Tree()
    try:
        if not root.is_dir():
            raise LocalFileError(f"Local directory not found: {root}")
        inside = os.path.realpath(root)
        # The GNU format takes any bytes as a name.
        with tarfile.open(
            fileobj=archive, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
        ) as tar:
            for name in _walk(inside, ""):
                _add(tar, inside, name, tree)
    except OSError as error:
        raise LocalFileError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    return tree


def _walk(root: str, below: str) -> Iterator[str]:
    with os.scandir(os.path.join(root, below)) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = os.path.join(below, entry.name)
        yield name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, name)


def _add(tar: tarfile.TarFile, root: str, name: str, tree: Tree) -> None:
    path = os.path.join(root, name)
    status = os.lstat(path)
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(status.st_mode) & PERMISSIONS, int(status.st_mtime)
    if stat.S_ISLNK(status.st_mode) and _stays(root, path):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        tar.addfile(info)
    elif stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            tar.addfile(info, file)
        tree.bytes += info.size
    else:
        tree.skipped.append(name)
        return
    tree.entries += 1


def _stays(root: str, link: str) -> bool:
    """Whether a link leads to something below ``root``, wherever that will lie."""
    if os.path.isabs(os.readlink(link)):
        return False
    return os.path.realpath(link).startswith(root.rstrip("/") + "/") or os.path.realpath(link) == root


def extract(archive: IO[bytes], target: Path, max_bytes: int) -> Tree:
    """Make ``target`` the tree in ``archive``, or add it to the directory that is there.

    A new or empty ``target`` appears as a whole. In one that holds something, files are replaced one by one, and links
    that are there already are never followed.

    Raises:
        RemoteFileError: the archive is no such tree, or larger than ``max_bytes``.
        LocalFileError: it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".toolfleet-", dir=target.parent))
        try:
            tree = _Extraction(scratch / "tree", max_bytes).run(archive)
            _put_in_place(scratch / "tree", target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise LocalFileError(f"cannot write {target}: {error.strerror or error}") from error
    return tree


class _Extraction:
    """Fills a fresh directory: while files are written there is no link in it that could lead anywhere."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._left = max_bytes
        self._tree = Tree()
        self._modes: list[tuple[Path, int, float]] = []
        self._links: list[tuple[Path, str]] = []

    def run(self, archive: IO[bytes]) -> Tree:
        self._root.mkdir(mode=0o755)
        try:
            with tarfile.open(fileobj=archive, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                for number, member in enumerate(tar):
                    if number == MOST_ENTRIES:
                        raise RemoteFileError(f"the tree has more than {MOST_ENTRIES} entries; download parts of it")
                    self._take(tar, member)
            self._make_links()
        except tarfile.TarError as error:
            raise RemoteFileError(f"the sandbox has sent a damaged archive: {error}") from error
        except (FileExistsError, NotADirectoryError) as error:
            name = os.path.relpath(error.filename, self._root)
            raise RemoteFileError(f"the sandbox has sent two things of one name: {name!a}") from error
        for path, mode, mtime in reversed(self._modes):
            # Whoever has asked for the tree must be able to look into it, and to remove it.
            os.chmod(path, (mode & PERMISSIONS) | stat.S_IRWXU)
            os.utime(path, (mtime, mtime))
        return self._tree

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._inside(member.name)
        if member.isdir():
            if path != self._root:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._modes.append((path, member.mode, member.mtime))
        elif member.issym():
            self._links.append((path, member.linkname))
        elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            self._write(tar, member, path)
        else:
            self._tree.skipped.append(member.name)
            return
        self._tree.entries += 1

    def _inside(self, name: str) -> Path:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise RemoteFileError(f"the sandbox has sent a file that would be written elsewhere: {name!a}")
        if len(parts) > DEEPEST:
            raise RemoteFileError(f"the tree has more than {DEEPEST} directories below one another")
        return self._root.joinpath(*parts)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        self._left -= member.size
        if self._left < 0:
            raise RemoteFileError("the tree is larger than max_bytes allows")
        source = tar.extractfile(member)
        if source is None:
            raise RemoteFileError(f"the sandbox has sent a file without content: {member.name!a}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
            os.fchmod(file.fileno(), member.mode & PERMISSIONS)
        os.utime(path, (member.mtime, member.mtime))
        self._tree.bytes += member.size

    def _make_links(self) -> None:
        made: list[Path] = []
        for path, target in self._links:
            if os.path.isabs(target) or "\0" in target or not target:
                self._skip(path)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, path)
            made.append(path)
        # One link may lead through another: only where all of them end shows whether one of them leaves the tree.
        root = os.path.realpath(self._root)
        while leaving := [p for p in made if not (os.path.realpath(p) + "/").startswith(root + "/")]:
            for path in leaving:
                path.unlink()
                made.remove(path)
                self._skip(path)

    def _skip(self, path: Path) -> None:
        self._tree.skipped.append(str(path.relative_to(self._root)))
        self._tree.entries -= 1


def _put_in_place(tree: Path, target: Path) -> None:
    try:
        # Onto nothing, or onto an empty directory.
        os.rename(tree, target)
        return
    except OSError as error:
        if not target.is_dir():
            raise LocalFileError(f"cannot write {target}: {error.strerror}") from error
    here = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        there = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _merge(here, there, str(target))
        finally:
            os.close(there)
    finally:
        os.close(here)


def _merge(here: int, there: int, shown: str) -> None:
    """Move what is in the directory ``here`` to ``there``, by descriptors: no name is looked up through a link."""
    for name in os.listdir(here):
        if not stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
            os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
            continue
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=there)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            below = os.open(name, flags, dir_fd=there)
        except OSError as error:
            raise LocalFileError(f"{shown}/{name} is in the way of a directory of that name") from error
        source = os.open(name, flags, dir_fd=here)
        try:
            status = os.fstat(source)
            _merge(source, below, f"{shown}/{name}")
            os.fchmod(below, stat.S_IMODE(status.st_mode))
            os.utime(below, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(below)
            os.close(source)
