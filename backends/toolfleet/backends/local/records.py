"""What is written beside a sandbox's socket, so that other processes can find, judge and remove it."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolfleet.backends.base import Owner
from toolfleet.backends.local import processes
from toolfleet.backends.local.processes import Identity, boot_id

_NAME = "record.json"
#: A directory that somebody is making or removing: that process, and the sandbox's id.
_ASIDE = re.compile(r"\.(\d+)-(\d+)-.+")


@dataclass(frozen=True, slots=True)
class Layer:
    """The writable layer of a sandbox."""

    disk: int
    """Bytes that it may have."""
    overlay: bool
    """It lies above a base, and is not the root itself."""
    exclude: list[str]
    """Paths at which something else is mounted."""


@dataclass(frozen=True, slots=True)
class Record:
    """One sandbox. ``monitor`` is None until bubblewrap has been started, ``runner`` until it has its configuration."""

    owner: Owner
    spec_hash: str
    created: float
    """Wall clock, for people to read; nothing is decided by it."""
    boot: str
    creator: Identity
    runner: Identity | None = None
    """PID 1 of the sandbox, by its number on the host: when it ends, everything in the sandbox does."""
    monitor: Identity | None = None
    """The process outside that waits for it."""
    cgroup: str | None = None
    layer: Layer | None = None
    """What has to be known to save it."""


class Directory:
    """The directory of one sandbox, 0700: socket, record, nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = path / "runner.sock"

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self.path.name

    def make(self, record: Record) -> None:
        """Make it with its record: whoever sees it under its name sees both."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self._aside()
        aside.path.mkdir(mode=0o700)
        try:
            aside.write(record)
            aside.path.rename(self.path)
        except BaseException:
            shutil.rmtree(aside.path, ignore_errors=True)
            raise

    def write(self, record: Record) -> None:
        """Replace the record atomically."""
        temporary = self.path / f".{_NAME}"
        temporary.write_text(json.dumps(asdict(record)))
        temporary.rename(self.path / _NAME)

    def read(self) -> Record | None:
        """The record; None when there is none that makes sense."""
        try:
            return _parse(json.loads((self.path / _NAME).read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def listen(self) -> socket.socket:
        """The socket that the runner will accept on."""
        return listen(self.socket, socket.SOCK_STREAM, 128)

    def live(self, record: Record) -> bool:
        """Whether the sandbox runs, or is about to."""
        if record.boot != boot_id():
            return False
        if record.runner is None:
            if record.creator.alive:
                return True
            # Nobody but its creator knows of it, and may have gone on since the record was read; now it writes no more.
            record = self.read() or record
        return record.runner is not None and record.runner.alive

    def remove(self) -> None:
        """Remove the directory; its record does not go before its name."""
        aside = self._aside()
        with contextlib.suppress(OSError):  # gone already, or on its way
            self.path.rename(aside.path)
        shutil.rmtree(aside.path, ignore_errors=True)

    def _aside(self) -> "Directory":
        me = processes.me()
        return Directory(self.path.with_name(f".{me.pid}-{me.start}-{self.id}"))


def listen(path: Path, kind: socket.SocketKind, backlog: int) -> socket.socket:
    """A unix socket that listens at ``path``; bound through a descriptor, for paths of any length."""
    listener = socket.socket(socket.AF_UNIX, kind)
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


async def end(record: Record, patience: float) -> bool:
    """Kill the processes of a sandbox and wait for their end; False when ``patience`` seconds do not suffice."""
    if record.runner is None:
        return await _end_half_made(record, patience)
    if not await processes.wait(record.runner, patience, kill=True):
        return False
    if record.monitor is None:
        return True
    # The monitor ends by itself once it has collected the runner; killed before, it would leave a zombie to init.
    if await processes.wait(record.monitor, 1.0, kill=False):
        return True
    return await processes.wait(record.monitor, patience, kill=True)


async def _end_half_made(record: Record, patience: float) -> bool:
    """The monitor first, so that it begins nothing after we have looked for what it has begun."""
    if record.monitor is None:
        return True
    if not await processes.wait(record.monitor, patience, kill=True):
        return False
    begun = await asyncio.to_thread(lambda monitor: [*processes.begun_by(monitor)], record.monitor)
    return all([await processes.wait(child, patience, kill=True) for child in begun])


def directories(root: Path) -> Iterator[Directory]:
    """The directories of all sandboxes under ``root``; those that a dead process was making or removing go."""
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(root.iterdir()):
            if aside := _ASIDE.fullmatch(entry.name):
                if not Identity(int(aside[1]), int(aside[2])).alive:
                    shutil.rmtree(entry, ignore_errors=True)
            elif entry.is_dir():
                yield Directory(entry)


def _parse(data: dict[str, Any]) -> Record:
    data["owner"] = Owner(**data["owner"])
    for name in ("creator", "runner", "monitor"):
        if data[name] is not None:
            data[name] = Identity(**data[name])
    if data.get("layer") is not None:
        data["layer"] = Layer(**data["layer"])
    return Record(**data)
