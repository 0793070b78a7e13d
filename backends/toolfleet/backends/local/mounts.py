"""Mounts that are attached nowhere: made by a worker that is root, handed to a runner as descriptors."""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

_NR_OPEN_TREE, _NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT, _NR_MOUNT_SETATTR = 428, 430, 431, 432, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_OPEN_TREE_CLONE = 1
_CONFIG_FLAG, _CONFIG_STRING, _CONFIG_CREATE = 0, 1, 6
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 1, 2, 4, 0x100000

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def _call(what: str, number: int, *arguments: object) -> int:
    result = _libc.syscall(number, *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)
    return int(result)


def owned_mount(path: Path, namespace: int) -> int:
    """Clone the tree at ``path`` as a mount that shows host root's files as those of the user namespace's root.

    Without this the files would belong to nobody inside, and no command could change its copy of them. ``namespace``
    is a descriptor of the user namespace. Needs real root, and a file system that supports idmapped mounts.

    Returns:
        A descriptor of the detached mount.

    Raises:
        OSError: the kernel or the file system does not support it.
    """
    clone = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
    fd = _call(str(path), _NR_OPEN_TREE, _AT_FDCWD, os.fsencode(path), clone)
    attributes = _Attributes(_ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_IDMAP, 0, 0, namespace)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    try:
        _call(str(path), _NR_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
    except OSError:
        os.close(fd)
        raise
    return fd


def device_mount(kind: str, device: str, options: Mapping[str, str | None]) -> int:
    """Mount the file system on a block device, nosuid and nodev, without attaching it anywhere.

    It is unmounted when its descriptor is closed, or, once attached, when the last process that sees it has ended.

    Returns:
        A descriptor of the detached mount.

    Raises:
        OSError: the kernel refuses it.
    """
    context = _call(f"fsopen {kind}", _NR_FSOPEN, kind.encode(), _CLOEXEC)
    try:
        for name, value in {"source": device, **options}.items():
            command = _CONFIG_FLAG if value is None else _CONFIG_STRING
            text = None if value is None else value.encode()
            _call(f"mount option {name}", _NR_FSCONFIG, context, command, name.encode(), text, 0)
        _call(f"mount {device}", _NR_FSCONFIG, context, _CONFIG_CREATE, None, None, 0)
        return _call(f"mount {device}", _NR_FSMOUNT, context, _CLOEXEC, _ATTR_NOSUID | _ATTR_NODEV)
    finally:
        os.close(context)
