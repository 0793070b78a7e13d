"""The operations `list` and `pack`: what is below a directory, as entries or as an archive.

Entries come sorted by name, directory by directory, and no more of them are held than are asked for.
"""

import contextlib
import heapq
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, Literal, NamedTuple

from toolfleet.backends.runner.applets import os_write_all
from toolfleet.backends.runner.files import transfer

#: Names of what could not be packed that an answer repeats at most.
NAMED = 20


class Entry(NamedTuple):
    """One name below a directory."""

    path: bytes
    """Relative to that directory."""
    status: os.stat_result
    """Of the entry itself, not of what it links to."""


def walk(root: bytes, most: int, *, recursive: bool = True, hidden: bool = True) -> Iterator[Entry]:
    """What is below ``root``: a directory before what it holds, links not followed; about ``most`` entries at most.

    Directories that cannot be read count as empty, except ``root``. Without ``hidden``, directories whose name begins
    with a dot are not entered.
    """
    left = most
    stack = [_entries(root, b"", left)]
    while stack and left > 0:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        left -= 1
        yield entry
        entered = hidden or not os.path.basename(entry.path).startswith(b".")
        if recursive and entered and stat.S_ISDIR(entry.status.st_mode):
            with contextlib.suppress(OSError):
                stack.append(_entries(root, entry.path, left))


def _entries(root: bytes, below: bytes, most: int) -> Iterator[Entry]:
    directory = os.path.join(root, below) if below else root
    with os.scandir(directory) as found:
        names = heapq.nsmallest(most, (entry.name for entry in found))
    return _with_status(root, [os.path.join(below, name) for name in names])


def _with_status(root: bytes, paths: list[bytes]) -> Iterator[Entry]:
    for path in paths:
        with contextlib.suppress(OSError):  # gone meanwhile
            yield Entry(path, os.lstat(os.path.join(root, path)))


def list_entries(out: int, path: bytes, *, recursive: bool, max_entries: int) -> Mapping[str, Any]:
    """Write what is below ``path`` to ``out``, one JSON object a line; of a file, the file itself."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        root, found = path, walk(path, max_entries + 1, recursive=recursive)
    else:
        root, name = os.path.split(path)
        found = _with_status(root, [name])
    listed = 0
    for entry in found:
        if listed == max_entries:
            return {"entries": listed, "truncated": True}
        os_write_all(out, json.dumps(described(root, entry)).encode("ascii") + b"\n")
        listed += 1
    return {"entries": listed, "truncated": False}


def described(root: bytes, entry: Entry) -> dict[str, Any]:
    """An entry in JSON; bytes that are no UTF-8 travel as lone surrogates."""
    status = entry.status
    described = {
        "path": entry.path.decode("utf-8", "surrogateescape"),
        "is_dir": stat.S_ISDIR(status.st_mode),
        "size": status.st_size,
        "mtime": status.st_mtime,
        "mode": stat.S_IMODE(status.st_mode),
    }
    if stat.S_ISLNK(status.st_mode):
        with contextlib.suppress(OSError):
            link = os.readlink(os.path.join(root, entry.path))
            described["link"] = link.decode("utf-8", "surrogateescape")
    return described


class TooLarge(Exception):
    """An archive would be larger than was allowed; the message is a sentence."""


class _Bounded:
    """A file that takes so many bytes and no more."""

    def __init__(self, fd: int, most: int) -> None:
        self._fd = fd
        self._most = most
        self.written = 0

    def write(self, data: bytes) -> int:
        self.written += len(data)
        if self.written > self._most:
            raise TooLarge(f"Archive too large: more than {self._most} bytes; pack a part of the tree")
        os_write_all(self._fd, data)
        return len(data)


def pack(
    target: int, path: bytes, *, kind: Literal["tar", "tar.gz"], max_bytes: int, max_entries: int
) -> Mapping[str, Any]:
    """Write the tree below ``path``, or the one file, to ``target`` as an archive.

    Modes, times, links and empty directories are kept; owners are not. What has no content of its own (devices,
    sockets, FIFOs) and what cannot be read is left out and named.
    """
    bounded = _Bounded(target, max_bytes)
    try:
        return _Packing(bounded, path, kind).run(max_entries) | {"bytes": bounded.written}
    except TooLarge as error:
        return {"error": str(error), "too_large": True}


class _Packing:
    def __init__(self, target: _Bounded, path: bytes, kind: str) -> None:
        self._target = target
        self._root = path
        self._mode: Literal["w|gz", "w|"] = "w|gz" if kind == "tar.gz" else "w|"
        self._skipped: list[str] = []
        self._left_out = 0

    def run(self, max_entries: int) -> dict[str, Any]:
        members = 0
        # The GNU format takes any bytes as a name.
        with tarfile.open(  # type: ignore[call-overload]
            fileobj=self._target,
            mode=self._mode,
            format=tarfile.GNU_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            for entry in self._entries(max_entries):
                if members == max_entries:
                    raise TooLarge(f"The tree has more than {max_entries} entries; pack a part of it")
                members += self._add(tar, entry)
        return {"entries": members, "left_out": self._left_out, "skipped": self._skipped}

    def _entries(self, max_entries: int) -> Iterator[Entry]:
        if stat.S_ISDIR(os.stat(self._root).st_mode):
            return walk(self._root, max_entries + 1)
        self._root, name = os.path.split(os.path.realpath(self._root))
        return _with_status(self._root, [name])

    def _add(self, tar: tarfile.TarFile, entry: Entry) -> bool:
        """Whether the entry is in the archive now."""
        info = tarfile.TarInfo(entry.path.decode("utf-8", "surrogateescape"))
        info.mode = stat.S_IMODE(entry.status.st_mode)
        info.mtime = int(entry.status.st_mtime)
        full = os.path.join(self._root, entry.path)
        try:
            if stat.S_ISDIR(entry.status.st_mode):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif stat.S_ISLNK(entry.status.st_mode):
                info.type = tarfile.SYMTYPE
                info.linkname = os.readlink(full).decode("utf-8", "surrogateescape")
                tar.addfile(info)
            elif stat.S_ISREG(entry.status.st_mode):
                fd = transfer.opened(full)
                info.size = os.fstat(fd).st_size
                with os.fdopen(fd, "rb") as file:
                    self._copy(tar, info, file)
            else:
                self._leave_out(info)
                return False
        except PermissionError:
            self._leave_out(info)
            return False
        except FileNotFoundError:  # gone meanwhile
            return False
        return True

    @staticmethod
    def _copy(tar: tarfile.TarFile, info: tarfile.TarInfo, file: IO[bytes]) -> None:
        try:
            tar.addfile(info, file)
        except OSError as error:
            if error.errno is not None:
                raise
            raise TooLarge(f"{info.name!a} became shorter while it was packed; try again") from error

    def _leave_out(self, info: tarfile.TarInfo) -> None:
        self._left_out += 1
        if len(self._skipped) < NAMED:
            self._skipped.append(os.fsencode(info.name).decode(errors="backslashreplace"))
