"""The file operations `read` and `write`; each runs in a forked child and may block or fail as it likes."""

import contextlib
import errno
import importlib
import os
import stat
import sys
from collections.abc import Callable, Mapping
from typing import Any

# hashlib would pull OpenSSL into the bundle; the extension module of its own was renamed in Python 3.12.
sha256 = importlib.import_module("_sha2" if sys.version_info >= (3, 12) else "_sha256").sha256

#: Bytes read and looked at in one go.
CHUNK = 1024 * 1024
#: How far behind the wanted lines `read` still counts lines, in bytes.
COUNT_AHEAD = 64 * 1024 * 1024

_SENTENCES = {
    errno.ENOENT: "File not found: {path}",
    errno.EISDIR: "Not a file: {path}",
    errno.ENOTDIR: "Not a directory on the way to {path}",
    errno.EACCES: "Permission denied: {path}",
    errno.EPERM: "Operation not permitted: {path}",
    errno.EROFS: "Read-only file system: {path}",
    errno.ENAMETOOLONG: "Name too long: {path}",
    errno.ELOOP: "Too many symbolic links: {path}",
}


def guarded(work: Callable[[], Mapping[str, Any]], path: bytes, disk: int) -> Mapping[str, Any]:
    """Do ``work``; put what goes wrong into a sentence."""
    try:
        return work()
    except OSError as error:
        return {"error": sentence(error, path, disk)}


def sentence(error: OSError, path: bytes, disk: int) -> str:
    """Say what went wrong with ``path``."""
    shown = path.decode(errors="backslashreplace")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space left: the sandbox may write {disk // 2**20} MiB"
    template = _SENTENCES.get(error.errno or 0)
    return template.format(path=shown) if template else f"{error.strerror or error}: {shown}"


def read(out: int, path: bytes, offset: int, limit: int | None, max_bytes: int) -> Mapping[str, Any]:
    """Write lines ``offset`` to ``offset + limit - 1`` of ``path`` to ``out``, whole lines up to ``max_bytes``.

    A first line longer than that is cut (``line_cut``). Only what is asked for is ever in memory.
    """
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return {"error": f"Not a file: {path.decode(errors='backslashreplace')}"}
    return _Lines(fd, out, offset, limit, max_bytes).copy() | {"size": status.st_size}


class _Lines:
    """Copies a range of lines from one descriptor to another."""

    def __init__(self, source: int, out: int, offset: int, limit: int | None, max_bytes: int) -> None:
        self._source = source
        self._out = out
        self._first = max(1, offset)
        self._end = None if limit is None else self._first + max(0, limit)
        self._room = max_bytes
        self._line = 1
        """Number of the line that the next byte belongs to."""
        self._at_start = True
        """No byte of that line has been seen yet."""

    def copy(self) -> dict[str, Any]:
        self._skip_to_first()
        lines, cut = self._take()
        os_write_all(self._out, lines)
        total = self._count()
        done = total is not None and self._resume > total
        return {"next_offset": None if done else self._resume, "total_lines": total, "line_cut": cut}

    def _skip_to_first(self) -> None:
        self._pending = b""
        while self._line < self._first:
            chunk = os.read(self._source, CHUNK)
            if not chunk:
                return
            missing = self._first - self._line
            newlines = chunk.count(b"\n")
            if newlines < missing:
                self._pass(chunk, newlines)
                continue
            position = -1
            for _ in range(missing):
                position = chunk.find(b"\n", position + 1)
            self._pass(chunk[: position + 1], missing)
            self._pending = chunk[position + 1 :]

    def _pass(self, data: bytes, newlines: int) -> None:
        if data:
            self._line += newlines
            self._at_start = data.endswith(b"\n")

    def _take(self) -> tuple[bytes, bool]:
        """The wanted lines, and whether the only one was too long."""
        self._resume = self._first
        taken = bytearray()
        if self._line < self._first:
            return b"", False
        while len(taken) <= self._room:
            chunk = self._pending or os.read(self._source, CHUNK)
            self._pending = b""
            if not chunk:
                break
            taken += chunk
            if self._end is not None and taken.count(b"\n") >= self._end - self._first:
                break
        keep, cut = self._fit(taken)
        self._pending = bytes(taken[keep:])
        lines = bytes(taken[:keep])
        newlines = lines.count(b"\n")
        self._pass(lines, newlines)
        self._resume = self._first + newlines + (1 if lines and not lines.endswith(b"\n") else 0)
        return lines, cut

    def _fit(self, taken: bytearray) -> tuple[int, bool]:
        """How many bytes of ``taken`` are wanted lines that fit, and whether that cuts the only one."""
        end = len(taken)
        if self._end is not None:
            position = -1
            for _ in range(self._end - self._first):
                position = taken.find(b"\n", position + 1)
                if position < 0:
                    break
            else:
                end = position + 1
        if end <= self._room:
            return end, False
        fitting = taken.rfind(b"\n", 0, self._room) + 1
        return (fitting, False) if fitting else (self._room, True)

    def _count(self) -> int | None:
        """Lines of the whole file; None when its end is too far away."""
        seen = 0
        while seen <= COUNT_AHEAD:
            chunk = self._pending or os.read(self._source, CHUNK)
            self._pending = b""
            if not chunk:
                return self._line - 1 if self._at_start else self._line
            seen += len(chunk)
            self._pass(chunk, chunk.count(b"\n"))
        return None


def write(spool: int, path: bytes, mode: int | None) -> Mapping[str, Any]:
    """Make ``path`` a file with the content of ``spool``, all at once; its parents are made."""
    status = _existing(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        return {"error": f"Not a file: {path.decode(errors='backslashreplace')}"}
    # A link stays a link: what it points to is replaced, as an editor would.
    path = os.path.realpath(path)
    parent, name = os.path.split(path)
    made = not os.path.isdir(parent)
    os.makedirs(parent, exist_ok=True)
    if mode is None:
        mode = stat.S_IMODE(status.st_mode) if status is not None else 0o644
    temporary = os.path.join(parent, b".%d.toolfleet" % os.getpid())
    try:
        _materialise(spool, temporary)
        os.chmod(temporary, mode)
        os.rename(temporary, os.path.join(parent, name))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return {**digest(spool), "dirs_created": made}


def digest(spool: int) -> dict[str, Any]:
    """Length and SHA-256 of ``spool``."""
    position, hashed = 0, sha256()
    while chunk := os.pread(spool, CHUNK, position):
        hashed.update(chunk)
        position += len(chunk)
    return {"bytes": position, "sha256": hashed.hexdigest()}


def _existing(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _materialise(spool: int, target: bytes) -> None:
    """Give the unlinked ``spool`` the name ``target``; by copying where they are on different file systems."""
    try:
        # With a directory descriptor Python calls linkat, which alone follows the link to the unlinked file.
        descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.link(str(spool), target, src_dir_fd=descriptors, follow_symlinks=True)
    except OSError:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        position = 0
        while chunk := os.pread(spool, CHUNK, position):
            os_write_all(fd, chunk)
            position += len(chunk)
        os.close(fd)


def os_write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
