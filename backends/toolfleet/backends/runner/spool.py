"""Where content waits until it is complete: files without a name, which no command can find."""

import contextlib
import errno
import os

#: Where to spool in a root that the runner has not made itself, the best first.
_PLACES = ("/tmp", "/var/tmp", "/run", "/dev/shm", "/")  # noqa: S108 - files without a name cannot be guessed
#: What a file system without O_TMPFILE says; the last one is that of a kernel which takes it for O_DIRECTORY.
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EINVAL, errno.EISDIR)


def find() -> int:
    """A descriptor of the first directory that takes files; of the root when none does, so that uploads say why."""
    for place in _PLACES:
        with contextlib.suppress(OSError):
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.close(unnamed(directory))
            except OSError:
                os.close(directory)
                continue
            return directory
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def unnamed(directory: int) -> int:
    """A new file in ``directory``, for reading and writing."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    name = f".{os.urandom(8).hex()}"
    fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    os.unlink(name, dir_fd=directory)
    return fd
