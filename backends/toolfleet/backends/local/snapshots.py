"""Saved workspaces of this machine: one archive each, of a sandbox's writable layer, on a disk.

GNU tar reads the layer from outside and with no more rights than the sandbox's own root: it runs in the sandbox's user
namespace, but in the machine's mount and process namespaces, where no command reaches it. An archive has a name only
once it is whole, so whoever dies while it is written leaves nothing.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from toolfleet.backends.local import place, trust
from toolfleet.backends.local.processes import Identity, boot_id
from toolfleet.config.errors import SandboxLost, SnapshotLost, SpecRefused
from toolfleet.config.profile import MIB

#: Where archives are kept unless the backend is told otherwise; /run and /tmp may be memory.
DEFAULT = Path("/var/lib/toolfleet/snapshots")

#: Seconds that saving may take, and after which an archive goes that nobody has dropped.
_WITHIN, _LONGEST = 600.0, 7 * 24 * 3600.0
#: Marks of the kernel on directories of an overlay that mean something to that overlay alone.
_FOREIGN = ("origin", "impure", "nlink", "uuid", "upper")
_TAR = (
    *("tar", "--create", "--file=-", "--format=posix", "--sparse", "--numeric-owner", "--one-file-system"),
    *("--anchored", "--no-wildcards", "--xattrs", "--xattrs-include=user.*"),
    *(f"--xattrs-exclude=user.overlay.{mark}" for mark in _FOREIGN),
)


class Snapshots:
    """The archives below one directory; those of earlier boots of the machine are out of everybody's reach."""

    def __init__(self, root: Path = DEFAULT) -> None:
        self._root = root
        self._here = root / boot_id()

    def place(self, backend: str) -> str:
        """Where they are, in the words of `toolfleet.backends.base.Capabilities`; empty when none can be made here."""
        try:
            self.check()
        except SpecRefused:
            return ""
        return place.of_directory(f"{backend}-snapshots", self._here, processes_too=False)

    def check(self) -> None:
        """Find out whether this machine can save sandboxes.

        Raises:
            SpecRefused: it cannot; the message says why and what to do.
        """
        if os.geteuid() != 0:
            raise SpecRefused("saving a sandbox of bubblewrap needs a worker that is root, or use the backend docker")
        for program, package in (("tar", "tar"), ("nsenter", "util-linux"), ("prlimit", "util-linux")):
            if shutil.which(program) is None:
                raise SpecRefused(f"saving a sandbox needs {program}: install the package {package}")
        try:
            trust.make(self._root, 0o700)
            self._here.mkdir(mode=0o700, exist_ok=True)
        except (OSError, trust.Untrusted) as error:
            raise SpecRefused(f"this machine cannot save a sandbox: {error}") from error

    def path(self, name: str) -> Path:
        """The archive ``name``.

        Raises:
            SnapshotLost: there is none.
        """
        path = self._here / Path(name).name
        if not path.is_file():
            raise SnapshotLost(f"the snapshot {name} is not on this machine (any more)")
        return path

    async def save(self, name: str, runner: Identity, *, overlay: bool, exclude: Sequence[str], most: int) -> None:
        """Write the archive ``name`` of the sandbox whose PID 1 is ``runner``.

        Args:
            overlay: the writable layer is that of an overlay, and not the root itself.
            exclude: absolute paths that are no part of the layer.
            most: bytes that the archive may have.

        Raises:
            SandboxLost: the sandbox ended meanwhile, or its files did not fit.
        OSError: this machine is out of something.
        """
        await asyncio.to_thread(self.check)
        directory, namespace = _layer(runner, overlay=overlay)
        archive = os.open(self._here, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            await _tar(directory, namespace, archive, [f"--exclude=.{path}" for path in exclude], most)
            if not runner.alive:
                raise SandboxLost("the sandbox ended while it was saved", sent=True)
            # With a descriptor, for only then is the link followed; the path is absolute and needs none.
            os.link(f"/proc/self/fd/{archive}", self._here / name, src_dir_fd=directory, follow_symlinks=True)
        finally:
            for fd in (directory, namespace, archive):
                os.close(fd)

    def drop(self, name: str) -> None:
        """Remove an archive; what reads it now reads on. Idempotent."""
        (self._here / Path(name).name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what nobody can want any more.

        By the wall clock, which decides nothing else: an archive that its fleet has not dropped in all that time has
        outlived the fleet's own memory of it. Where another user keeps archives, that user's workers do it.
        """
        with contextlib.suppress(FileNotFoundError, PermissionError):
            for directory in self._root.iterdir():
                if directory != self._here:
                    shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError, PermissionError):
            for archive in self._here.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - archive.stat().st_mtime > _LONGEST:
                        archive.unlink()


def _layer(runner: Identity, *, overlay: bool) -> tuple[int, int]:
    """Descriptors of a sandbox's writable layer and of its user namespace."""
    process = f"/proc/{runner.pid}"
    try:
        directory = os.open(_upper(process) if overlay else f"{process}/root", os.O_RDONLY | os.O_DIRECTORY)
        try:
            namespace = os.open(f"{process}/ns/user", os.O_RDONLY)
        except OSError:
            os.close(directory)
            raise
    except OSError as error:
        raise SandboxLost(f"the sandbox cannot be looked into: {error}", sent=False) from error
    if runner.alive:  # so far it was this very process, whatever has its number later
        return directory, namespace
    os.close(directory)
    os.close(namespace)
    raise SandboxLost("the sandbox has ended", sent=False)


def _upper(process: str) -> str:
    """The layer of an overlay lies beside the runner's spool (see `runner.enter`), to which no path leads."""
    for name in os.listdir(f"{process}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"{process}/fd/{name}") == "/spool":
                return f"{process}/fd/{name}/../upper"
    raise FileNotFoundError("its runner has no spool")


async def _tar(directory: int, namespace: int, archive: int, exclude: Sequence[str], most: int) -> None:
    enter = ("nsenter", f"--user=/proc/self/fd/{namespace}", "--setuid=0", "--setgid=0", "--")
    with tempfile.TemporaryFile() as complaints:
        process = await asyncio.create_subprocess_exec(
            "prlimit", f"--fsize={most}", "--", *enter, *_TAR, *exclude, ".",
            stdin=asyncio.subprocess.DEVNULL, stdout=archive, stderr=complaints, pass_fds=[namespace],
            cwd=f"/proc/self/fd/{directory}", env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )  # fmt: skip
        try:
            async with asyncio.timeout(_WITHIN):
                code = await process.wait()
        except TimeoutError:
            raise SandboxLost(f"the sandbox was not saved within {_WITHIN:.0f} s", sent=True) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        # 1: a file changed while it was read, which is the business of whoever changed it.
        if code not in (0, 1):
            complaints.seek(0)
            words = complaints.read(2000).decode(errors="replace").strip() or f"tar ended with {code}"
            raise SandboxLost(f"the sandbox could not be saved: {words}", sent=True)


def longest(disk: int) -> int:
    """Bytes that the archive of a layer of ``disk`` bytes may have: every inode takes some, up to two KiB."""
    return 2 * disk + 64 * MIB
