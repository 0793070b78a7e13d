"""The operation `unpack`: a tar archive into a directory, with nothing outside it touched."""

import contextlib
import os
import stat
import tarfile
from collections.abc import Mapping
from typing import Any

from toolfleet.backends.runner.applets import CHUNK, os_write_all


class Refused(Exception):
    """The archive is damaged or would write where it must not; the message is a sentence."""


def unpack(spool: int, dest: bytes) -> Mapping[str, Any]:
    """Extract the archive in ``spool`` into ``dest``, which is made; modes, times and links are kept, owners are not.

    Extraction stops at the first member that is refused; what came before it stays.
    """
    os.makedirs(dest, exist_ok=True)
    with os.fdopen(os.dup(spool), "rb") as file:
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:*", encoding="utf-8", errors="surrogateescape") as tar:
                return {"members": _Extraction(tar, os.path.realpath(dest)).run()}
        except Refused as error:
            return {"error": str(error)}
        except (tarfile.TarError, EOFError, ValueError, ArithmeticError) as error:
            return {"error": f"Not a readable tar archive: {error}"}
        except Exception as error:  # zlib, lzma and bz2 raise errors of their own for damaged data
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return {"error": f"Not a readable tar archive: {error}"}


class _Extraction:
    def __init__(self, tar: tarfile.TarFile, dest: bytes) -> None:
        self._tar = tar
        self._dest = dest
        self._directories: list[tuple[bytes, tarfile.TarInfo]] = []

    def run(self) -> int:
        members = 0
        for member in self._tar:
            self._extract(member)
            members += 1
        # To the very end, where compressed files keep the checksums that tell whether they are whole.
        while self._tar.fileobj is not None and self._tar.fileobj.read(CHUNK):
            pass
        self._finish_directories()
        return members

    def _extract(self, member: tarfile.TarInfo) -> None:
        target = self._target(member)
        if member.isdir():
            os.makedirs(target, exist_ok=True)
            self._directories.append((target, member))
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if member.issym():
            self._symlink(member, target)
        elif member.islnk():
            source = self._inside(os.fsencode(member.linkname), member)
            _clear(target)
            os.link(source, target, follow_symlinks=False)
        elif member.isreg():
            self._file(member, target)
        else:
            raise Refused(f"The archive holds a device or another special file: {_shown(member)}")

    def _target(self, member: tarfile.TarInfo) -> bytes:
        return self._inside(os.fsencode(member.name), member)

    def _inside(self, name: bytes, member: tarfile.TarInfo) -> bytes:
        """``name`` under the destination; its directory resolved, its last part left as it is."""
        if name.startswith(b"/") or b".." in name.split(b"/"):
            raise Refused(f"The archive reaches out of its destination: {_shown(member)}")
        parent, last = os.path.split(os.path.normpath(os.path.join(self._dest, name)))
        path = os.path.join(os.path.realpath(parent), last)
        if not self._holds(path):
            raise Refused(f"The archive reaches out of its destination: {_shown(member)}")
        return path

    def _holds(self, path: bytes) -> bool:
        return path == self._dest or path.startswith(self._dest.rstrip(b"/") + b"/")

    def _symlink(self, member: tarfile.TarInfo, target: bytes) -> None:
        link = os.fsencode(member.linkname)
        if not self._holds(os.path.realpath(os.path.join(os.path.dirname(target), link))):
            raise Refused(f"The archive holds a link out of its destination: {_shown(member)}")
        _clear(target)
        os.symlink(link, target)
        os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)

    def _file(self, member: tarfile.TarInfo, target: bytes) -> None:
        source = self._tar.extractfile(member)
        if source is None:
            raise Refused(f"The archive holds a file without content: {_shown(member)}")
        _clear(target)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            written = 0
            while chunk := source.read(CHUNK):
                os_write_all(fd, chunk)
                written += len(chunk)
            if written != member.size:
                raise Refused(f"The archive ends within a member: {_shown(member)}")
            os.fchmod(fd, stat.S_IMODE(member.mode))
        finally:
            os.close(fd)
        os.utime(target, (member.mtime, member.mtime))

    def _finish_directories(self) -> None:
        """Give directories their modes and times, deepest first, after all that would change them again."""
        for path, member in sorted(self._directories, key=lambda item: item[0], reverse=True):
            # Directories of the base (``./``, ``./usr``) may be read-only: that is no reason to fail.
            with contextlib.suppress(OSError):
                os.chmod(path, stat.S_IMODE(member.mode))
            with contextlib.suppress(OSError):
                os.utime(path, (member.mtime, member.mtime))


def _clear(target: bytes) -> None:
    """Remove what is in the way; a directory is only removed when it is empty."""
    try:
        os.unlink(target)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        os.rmdir(target)


def _shown(member: tarfile.TarInfo) -> str:
    return os.fsencode(member.name).decode(errors="backslashreplace")
