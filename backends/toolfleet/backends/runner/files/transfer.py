"""The operations `get`, `put` and `commit`: bytes of files in parts, whole files checked by their digest."""

import errno
import os
import stat
from collections.abc import Mapping
from typing import Any

from toolfleet.backends.runner import applets
from toolfleet.backends.runner.applets import CHUNK, os_write_all


def opened(path: bytes) -> int:
    """The regular file ``path``, for reading; opening one that is none does not wait for its other end.

    Raises:
        OSError: it cannot be opened, or is not a file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EISDIR, "Not a file")
    return fd


def get(out: int, source: int, offset: int, length: int, *, digest: bool) -> Mapping[str, Any]:
    """Write at most ``length`` bytes of ``source`` from ``offset`` on to ``out``.

    With ``digest``, its SHA-256 is told if this is the whole file or ``length`` is 0. Two answers with the same
    ``version`` tell of the same content, as far as the file system can tell.
    """
    status = os.fstat(source)
    begin, left = offset, length
    while left > 0 and (chunk := os.pread(source, min(left, CHUNK), offset)):
        os_write_all(out, chunk)
        offset += len(chunk)
        left -= len(chunk)
    detail: dict[str, Any] = {
        "bytes": length - left,
        "size": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "mtime": status.st_mtime,
        "eof": offset >= status.st_size,
        "version": f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}",
    }
    if digest and (not length or (begin == 0 and detail["eof"])):
        detail["sha256"] = applets.digest(source)["sha256"]
    return detail


def put(spool: int, stage: int, offset: int) -> Mapping[str, Any]:
    """Copy ``spool`` into ``stage`` at ``offset``; parts may come in any order, and again."""
    position = 0
    while chunk := os.pread(spool, CHUNK, position):
        written = 0
        while written < len(chunk):
            written += os.pwrite(stage, chunk[written:], offset + position + written)
        position += len(chunk)
    return {"bytes": position}


def check(stage: int, size: int | None, sha256: str | None) -> str | None:
    """What is wrong with the content of ``stage``, in a sentence."""
    there = os.fstat(stage).st_size
    if size is not None and there != size:
        return f"The transfer is incomplete: {there} of {size} bytes have come"
    if sha256 is not None and applets.digest(stage)["sha256"] != sha256:
        return "The transfer is damaged: its SHA-256 is not the one that was announced"
    return None


def commit(stage: int, path: bytes, mode: int | None, size: int | None, sha256: str | None) -> Mapping[str, Any]:
    """Make ``path`` a file with the content of ``stage``, all at once, if it is what was announced."""
    if (error := check(stage, size, sha256)) is not None:
        return {"error": error}
    return applets.write(stage, path, mode)
