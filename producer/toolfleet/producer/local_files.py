"""Files of this machine that are sent or received. Everything here blocks."""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from toolfleet.config.errors import LocalFileError

_CHUNK = 1024 * 1024


def opened(local: Path) -> tuple[IO[bytes], os.stat_result]:
    """A regular file, for reading.

    Raises:
        LocalFileError: there is none.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        file = os.fdopen(os.open(local, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise LocalFileError(f"cannot read {local}: {error.strerror}") from error
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise LocalFileError(f"cannot read {local}: it is not a file")
    return file, status


def read(file: IO[bytes], offset: int, length: int) -> bytes:
    """``length`` bytes from ``offset`` on.

    Raises:
        LocalFileError: they are not there any more.
    """
    content = os.pread(file.fileno(), length, offset)
    if len(content) < length:
        raise LocalFileError("the local file became shorter while it was read")
    return content


def write(file: IO[bytes], offset: int, content: bytes) -> None:
    """Write all of ``content`` at ``offset``.

    Raises:
        LocalFileError: there is no room.
    """
    try:
        while content:
            written = os.pwrite(file.fileno(), content, offset)
            offset, content = offset + written, content[written:]
    except OSError as error:
        raise LocalFileError(f"cannot write what was downloaded: {error.strerror}") from error


def digest(file: IO[bytes]) -> str:
    """The SHA-256 of all of ``file``, which is at its beginning afterwards."""
    file.seek(0)
    hashed = hashlib.sha256()
    while content := file.read(_CHUNK):
        hashed.update(content)
    file.seek(0)
    return hashed.hexdigest()


def existing(local: Path) -> Path:
    """The nearest directory above ``local`` that is there, so that scratch files lie on the same disk."""
    return next(path for path in local.absolute().parents if path.is_dir())


@contextlib.contextmanager
def scratch(directory: Path | None) -> Iterator[IO[bytes]]:
    """A file without a name."""
    try:
        file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed below, where errors are the caller's
    except OSError as error:
        raise LocalFileError(f"cannot write to {directory or tempfile.gettempdir()}: {error.strerror}") from error
    with file:
        yield file


@contextlib.contextmanager
def beside(local: Path) -> Iterator[tuple[IO[bytes], str]]:
    """A file beside ``local`` under a name of its own, which is gone afterwards."""
    try:
        if local.is_dir():
            raise LocalFileError(f"cannot write {local}: it is a directory")
        local.parent.mkdir(parents=True, exist_ok=True)
        fd, path = tempfile.mkstemp(prefix=".toolfleet-", dir=local.parent)
    except OSError as error:
        raise LocalFileError(f"cannot write {local}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "w+b") as file:
            yield file, path
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def finish(file: IO[bytes], path: str, local: Path, mode: int) -> None:
    """Give the complete ``file`` its permissions and, instead of ``path``, its name.

    Raises:
        LocalFileError: that is not possible.
    """
    try:
        os.fchmod(file.fileno(), mode)
        os.replace(path, local)
    except OSError as error:
        raise LocalFileError(f"cannot write {local}: {error.strerror}") from error
