"""A sandbox's writable files on disk: an ext4 file system in an image file that never has a name.

The image is an unlinked sparse file behind a loop device that clears itself, below a mount that is attached only in
the sandbox's own mount namespace. When the last process of the sandbox ends, however it ends, so do all three.
"""

import ctypes
import errno
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

from toolfleet.backends.local import mounts, trust
from toolfleet.config.errors import SpecRefused
from toolfleet.config.profile import MIB

#: Where images are made unless the backend is told otherwise; /run and /tmp may be memory.
DEFAULT = Path("/var/lib/toolfleet/images")

#: No journal and no barriers: an image is never read again after a crash. Blocks of 4 KiB at any size, as elsewhere.
_FORMAT = ("-q", "-F", "-b", "4096", "-I", "256", "-i", "8192", "-m", "0", "-O", "^has_journal,^resize_inode")
_EXTENDED = ("-E", "lazy_itable_init=1,nodiscard")
_OPTIONS = {"noinit_itable": None, "nobarrier": None, "errors": "remount-ro"}

_CONTROL = "/dev/loop-control"
_CTL_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR = 4
#: struct loop_config: image, block size; loop_info64 with its flags and file name; reserved.
_LOOP_CONFIG = struct.Struct("=2I 5Q 4I 64s 64s 32s 2Q 8Q")
_TRIES = 100
_IN_MEMORY = (0x01021994, 0x858458F6)  # tmpfs, ramfs
_PATIENCE = 60

_free_device = threading.Lock()


class Images:
    """Makes file systems below one directory, which must be on a disk."""

    def __init__(self, root: Path = DEFAULT) -> None:
        self._root = root

    def check(self) -> None:
        """Find out by trying whether this machine can do it; blocking, and quick after the first success.

        Raises:
            SpecRefused: it cannot; the message says why and what to do.
        """
        _try_out(self._root)

    def mount(self, mib: int, owner: int) -> int:
        """Make a file system of ``mib`` MiB whose root directory belongs to the user ``owner``. Blocking, some ms.

        Returns:
            A descriptor of the detached mount, nosuid and nodev; everything is gone when it is, see the module.

        Raises:
            OSError: the machine is out of disk space, loop devices or memory.
        """
        free = os.statvfs(self._root)
        if free.f_bavail * free.f_frsize < mib * MIB:
            raise OSError(errno.ENOSPC, f"there is no room for a disk image of {mib} MiB", str(self._root))
        template = _template(self._root, mib)
        image = _unnamed(self._root)
        try:
            os.ftruncate(image, mib * MIB)
            for offset, data in template:
                os.pwrite(image, data, offset)
            device, path = _attach(image)
        finally:
            os.close(image)
        try:
            mount = mounts.device_mount("ext4", path, _OPTIONS)
        finally:
            os.close(device)  # from here on only the mount holds it
        try:
            os.rmdir("lost+found", dir_fd=mount)
            os.chown(f"/proc/self/fd/{mount}", owner, owner)
        except BaseException:
            os.close(mount)
            raise
        return mount


def _unnamed(root: Path) -> int:
    """An open file that goes with its last descriptor."""
    try:
        return os.open(root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # such as overlay on an older kernel
            raise
    fd, name = tempfile.mkstemp(dir=root)
    os.unlink(name)
    return fd


@functools.lru_cache(maxsize=16)
def _template(root: Path, mib: int) -> tuple[tuple[int, bytes], ...]:
    """The parts of an empty file system of this size that are not zero: some hundred KiB, ten times faster than mkfs.

    Raises:
        OSError: mkfs.ext4 failed.
    """
    image = _unnamed(root)
    try:
        os.ftruncate(image, mib * MIB)
        command = [_mkfs(), *_FORMAT, *_EXTENDED, f"/proc/self/fd/{image}"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False, pass_fds=[image], env={}
        )
        if done.returncode:
            raise OSError(errno.EIO, f"mkfs.ext4 failed: {done.stderr.strip()[-500:]}")
        parts, end = [], 0
        while (start := _next_data(image, end)) is not None:
            end = os.lseek(image, start, os.SEEK_HOLE)
            parts.append((start, os.pread(image, end - start, start)))
        return tuple(parts)
    finally:
        os.close(image)


def _next_data(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # nothing but a hole up to the end
            raise
        return None


def _mkfs() -> str:
    path = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "there is no mkfs.ext4: install the package e2fsprogs")
    return path


def _attach(image: int) -> tuple[int, str]:
    """A loop device over ``image`` that clears itself when its last user is gone: (its descriptor, its path)."""
    for _ in range(_TRIES):
        with _free_device:
            control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
            try:
                path = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            finally:
                os.close(control)
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            settings = _LOOP_CONFIG.pack(image, 0, *(0,) * 8, _AUTOCLEAR, b"toolfleet", b"", b"", *(0,) * 2, *(0,) * 8)
            try:
                fcntl.ioctl(device, _CONFIGURE, settings)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # another process was faster
                    raise
            else:
                return device, path
    raise OSError(errno.EBUSY, "no loop device stays free")


@functools.cache
def _try_out(root: Path) -> None:
    if os.geteuid() != 0:
        raise SpecRefused('storage = "disk" needs a worker that is root: run it as root, or use storage = "memory"')
    try:
        trust.make(root, 0o700)
        if _magic(root) in _IN_MEMORY:
            raise SpecRefused(f'storage = "disk": {root} is memory: mount a disk there, or use storage = "memory"')
        _mkfs()
        os.close(Images(root).mount(8, 0))
    except (OSError, trust.Untrusted) as error:
        raise SpecRefused(f'this machine cannot do storage = "disk": {error}. {_advice(error)}'.strip()) from error


def _advice(error: Exception) -> str:
    if isinstance(error, OSError) and str(error.filename).startswith("/dev/loop"):
        return "It needs loop devices: modprobe loop, and in a container --privileged or the devices passed in."
    if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES, errno.ENODEV, errno.ENOSYS):
        return "It needs ext4, Linux 5.8 and the right to mount: in a container --privileged."
    return ""


def _magic(path: Path) -> int:
    """What kind of file system ``path`` is on, by the number of statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
