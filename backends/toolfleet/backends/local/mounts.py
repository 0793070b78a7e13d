"""A root filesystem as a detached, read-only mount whose files belong to the sandbox's own root user."""

import ctypes
import os
from pathlib import Path

_NR_OPEN_TREE, _NR_MOUNT_SETATTR = 428, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE = 1
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 1, 2, 4, 0x100000


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def owned_mount(path: Path, namespace: int) -> int:
    """Clone the tree at ``path`` as a mount that shows host root's files as those of the user namespace's root.

    Without this the files would belong to nobody inside, and no command could change its copy of them. ``namespace``
    is a descriptor of the user namespace. Needs real root, and a file system that supports idmapped mounts.

    Returns:
        A descriptor of the detached mount.

    Raises:
        OSError: the kernel or the file system does not support it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_NR_OPEN_TREE, _AT_FDCWD, os.fsencode(path), ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC))
    if fd == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    flags = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_IDMAP
    attributes = _Attributes(flags, 0, 0, namespace)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    if libc.syscall(_NR_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size) == -1:
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, os.strerror(number), str(path))
    return int(fd)
