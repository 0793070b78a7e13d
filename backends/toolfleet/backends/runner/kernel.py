"""System calls that Python has no function for. Imported before the pivot: afterwards libc's file is out of reach."""

import ctypes
import os
from collections.abc import Iterable

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 32, 4096, 8192, 16384
MNT_DETACH = 2

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL = 0, 1, 3, 4, 5
#: What lets a process look into others that are hidden from it; the second one since Linux 6.13.
_CAP_SYS_PTRACE, _CAP_PERFMON = 19, 38
_CAP_LAST = 63
_CAP_SETGID, _CAP_SETUID = 6, 7
_OVER_FILES = (CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, _CAP_SETGID, _CAP_SETUID)

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NAME, _PR_SET_NO_NEW_PRIVS = 4, 24, 15, 38
_PR_SET_CHILD_SUBREAPER, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, _PR_CAP_AMBIENT_CLEAR_ALL = 36, 47, 3, 4
_CAPABILITY_VERSION_3 = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING = 1
_NR_KEYCTL = {"x86_64": 250, "aarch64": 219}
_NR_MOVE_MOUNT = 429
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _check(result: int, what: str) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    fstype = kind.encode() if kind else None
    result = _libc.mount(source.encode(), os.fsencode(target), fstype, ctypes.c_ulong(flags), options.encode() or None)
    _check(result, f"mount {kind or source} at {target}")


def move_mount(fd: int, target: str) -> None:
    """Attach the detached mount ``fd`` at ``target``."""
    result = _libc.syscall(
        _NR_MOVE_MOUNT, fd, b"", ctypes.c_int(_AT_FDCWD), os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
    )
    _check(result, f"move_mount to {target}")


def pivot_root(new_root: str) -> None:
    """Make ``new_root`` the root and detach the old one for good."""
    os.chdir(new_root)
    # Stacking the old root onto the new one needs no directory to put it in.
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def join_new_keyring() -> None:
    """Leave the session keyring inherited from the host, whose keys any process could use otherwise."""
    number = _NR_KEYCTL.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None, 0, 0, 0)


def drop_privileges(keep: tuple[int, ...]) -> None:
    """Keep only the capabilities ``keep``, for this process and for everything it will ever start."""
    for cap in range(_CAP_LAST + 1):
        if cap not in keep:
            _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(cap), 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    mask = sum(1 << cap for cap in keep)
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)(_CapData(mask, mask, 0), _CapData(0, 0, 0))
    _check(_libc.capset(ctypes.byref(header), data), "capset")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "no_new_privs")


def capable(cap: int) -> bool:
    """Whether this process has the capability ``cap`` in effect."""
    return bool(_capabilities()[cap // 32].effective & 1 << cap % 32)


def forgo_peeping() -> None:
    """Take the power over what is hidden (see `hide_from_ptrace`) from this process and from all it will ever start."""
    _forgo((_CAP_SYS_PTRACE, _CAP_PERFMON))


def forgo_deceiving() -> None:
    """Take from this process, and from all it will ever start, every power but those of root over files and users.

    Without them root of a sandbox makes no mounts, devices, kernel settings or times that a later look would believe.
    """
    _forgo(cap for cap in range(_CAP_LAST + 1) if cap not in _OVER_FILES)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "no_new_privs")


def _forgo(caps: Iterable[int]) -> None:
    """Drop capabilities for good. Who lacks the privilege to do so has no such capability to pass on either."""
    data = _capabilities()
    for cap in caps:
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(cap), 0, 0, 0)
        _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_LOWER), ctypes.c_ulong(cap), 0, 0)
        half, mask = data[cap // 32], ~(1 << cap % 32)
        half.effective &= mask
        half.permitted &= mask
        half.inheritable &= mask
    _check(_libc.capset(ctypes.byref(_CapHeader(_CAPABILITY_VERSION_3, 0)), data), "capset")


def _capabilities() -> "ctypes.Array[_CapData]":
    data = (_CapData * 2)()
    _check(_libc.capget(ctypes.byref(_CapHeader(_CAPABILITY_VERSION_3, 0)), data), "capget")
    return data


def hide_from_ptrace() -> None:
    """Let no process of the same user trace this one or look into its descriptors."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0), "undumpable")


def signalfd(number: int) -> int:
    """A descriptor that becomes readable when the signal, which must be blocked, arrives."""
    mask = (ctypes.c_ulong * 16)(1 << (number - 1))  # as large as any libc's sigset_t
    fd = int(_libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))
    _check(fd, "signalfd")
    return fd


def set_name(name: str) -> None:
    """Set the name that ``ps`` shows."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()), 0, 0, 0)


def become_subreaper() -> None:
    """Inherit orphans also where this process is not PID 1."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
