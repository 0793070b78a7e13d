"""A look at a whole sandbox by a process that no command has had a hand in, which undoes first what it can.

``python -I -S -c "from toolfleet.backends.runner.pristine import main; main()"``, started by the engine beside the
runner. Standard input holds an inventory that an earlier look has printed, or nothing; standard output gets the one of
now. Both are framed as eight bytes of length, big endian, and a compressed JSON object: a path, or a fact with a name
that is no path, and what was found. Whoever compares two of them is not in the sandbox.

Undone is what can be: what was added goes, what is missing comes back if it is a directory or a link, and modes, owners
and times are set. Contents are never written: a file that was changed stays changed, and is seen.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any

HEAD = struct.Struct(">Q")
#: Seconds for which processes that are on their way out, such as a relay, are waited for.
_SETTLE = 5.0
_CHUNK = 1024 * 1024
#: File systems of the kernel's own; what commands may set there is listed below.
_KERNEL = ("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue")
_SETTINGS = ("/proc/sys/net", "/proc/sys/user", "/proc/sys/fs/mqueue", "/proc/sys/kernel")
_SETTABLE = ("auto_msgmni", "domainname", "hostname", "msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni")
_SHARED = ("/proc/sysvipc/msg", "/proc/sysvipc/sem", "/proc/sysvipc/shm")
_STATUS = (
    "Uid",
    "Gid",
    "Groups",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "NoNewPrivs",
    "Cpus_allowed",
)

Inventory = dict[str, Any]


def main() -> None:
    """Undo and look."""
    before = _read(0)
    if before:
        _settle({name for name in before if name.startswith("process ")})
        _undo(before)
    _write(1, look())


def pack(data: bytes) -> bytes:
    """A framed inventory, of its compressed form."""
    return HEAD.pack(len(data)) + data


def unpack(data: bytes) -> Inventory:
    """An inventory, of its compressed form."""
    found: Inventory = json.loads(zlib.decompress(data))
    return found


def differences(before: Inventory, after: Inventory) -> list[str]:
    """What differs, in words."""
    names = sorted(before.keys() | after.keys())
    words = {True: "is changed", False: "is new"}
    return [
        f"{name!r} {'is gone' if name not in after else words[name in before]}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def look() -> Inventory:
    """Everything that a command could have left behind."""
    found: Inventory = {path: _facts(path) for path in _paths()}
    found["mounts"] = sorted(_text("/proc/self/mounts").splitlines())
    for path in _SHARED:
        found[f"kernel {path}"] = _text(path).splitlines()[1:]
    found["keys"] = sorted(" ".join(key) for key in _keys())
    for path in _settings():
        found[f"kernel {path}"] = _text(path)
    for name, pid in _processes():
        found[name] = _process(pid)
    return found


def _keys() -> Iterator[list[str]]:
    """Type and description of what is kept in the kernel's keyrings; these themselves come and go with processes."""
    for line in _text("/proc/keys").splitlines():
        key = line.split(None, 8)[7:]
        if key and key[0] != "keyring":
            yield key


def _paths() -> Iterator[str]:
    """Every path that can be written to at all, directories before what they hold."""
    mounts = [line.split() for line in _text("/proc/self/mounts").splitlines()]
    shut = {
        re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), fields[1])
        for fields in mounts
        if fields[2] in _KERNEL or "ro" in fields[3].split(",")
    }
    pending = ["/"]
    while pending:
        path = pending.pop()
        if path in shut:
            continue
        yield path
        with contextlib.suppress(NotADirectoryError), os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.path not in shut:
                    yield entry.path


def _facts(path: str) -> list[Any]:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    facts: list[Any] = [kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns]
    if kind == stat.S_IFREG:
        facts += [status.st_size, _digest(path)]
    elif kind == stat.S_IFLNK:
        facts.append(os.readlink(path))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        facts[4] = status.st_rdev  # the time of a terminal is that of its last use
    with contextlib.suppress(OSError):
        facts.append({name: os.getxattr(path, name, follow_symlinks=False).hex() for name in _attributes(path)})
    return facts


def _attributes(path: str) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _settings() -> Iterator[str]:
    for root in _SETTINGS:
        for place, _, names in os.walk(root):
            for name in names:
                if (root != _SETTINGS[-1] or name in _SETTABLE) and not name.endswith("_count"):
                    yield os.path.join(place, name)


def _processes() -> Iterator[tuple[str, str]]:
    """Every process but this one: a name that tells it from one that has its number later, and its number."""
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid():
            content = _text(f"/proc/{pid}/stat")
            fields = content[content.rfind(")") + 2 :].split()
            if fields:
                yield f"process {pid} {fields[19]}", pid


def _process(pid: str) -> list[str]:
    status = [line for line in _text(f"/proc/{pid}/status").splitlines() if line.partition(":")[0] in _STATUS]
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return [*status, *fields[15:17], _text(f"/proc/{pid}/limits"), _text(f"/proc/{pid}/oom_score_adj")]


def _settle(known: set[str]) -> None:
    ends = time.monotonic() + _SETTLE
    while {name for name, _ in _processes()} - known and time.monotonic() < ends:
        time.sleep(0.02)


def _undo(before: Inventory) -> None:
    for path in [path for path in _paths() if path not in before or not _same_kind(path, before[path])]:
        _remove(path)
    there = set(_paths())
    for path, facts in before.items():
        if path.startswith("/") and path not in there:
            with contextlib.suppress(OSError):
                _bring_back(path, facts)
    for path in there:
        if (facts := before.get(path)) is not None:
            _set(path, facts)


def _same_kind(path: str, facts: list[Any]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path)
        link = stat.S_ISLNK(status.st_mode) and os.readlink(path) != facts[5]
        return bool(stat.S_IFMT(status.st_mode) == facts[0] and not link)
    return True  # it went with its directory


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except IsADirectoryError:
        shutil.rmtree(path, ignore_errors=True)
    except OSError:  # it stays, and is seen
        return


def _bring_back(path: str, facts: list[Any]) -> None:
    if facts[0] == stat.S_IFDIR:
        os.mkdir(path)
    elif facts[0] == stat.S_IFLNK:
        os.symlink(facts[5], path)
    else:
        return
    _set(path, facts)


def _set(path: str, facts: list[Any]) -> None:
    kind, mode, uid, gid, mtime = facts[:5]
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.lchown(path, uid, gid)
        if stat.S_IMODE(status.st_mode) != mode and kind != stat.S_IFLNK:
            os.chmod(path, mode)
        if status.st_mtime_ns != mtime and kind not in (stat.S_IFCHR, stat.S_IFBLK):
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


def _text(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return b"".join(iter(lambda: file.read(_CHUNK), b"")).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _read(fd: int) -> Inventory:
    size = HEAD.unpack(_exactly(fd, HEAD.size))[0]
    return unpack(_exactly(fd, size)) if size else {}


def _exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(fd, min(size - len(data), _CHUNK))
        if not part:
            sys.exit("the inventory broke off")
        data += part
    return bytes(data)


def _write(fd: int, found: Inventory) -> None:
    data = memoryview(pack(zlib.compress(json.dumps(found).encode("ascii"))))
    while data:
        data = data[os.write(fd, data) :]
