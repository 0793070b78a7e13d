"""What is written beside a sandbox's socket, so that other processes can find, judge and remove it."""

import contextlib
import json
import os
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
    """One sandbox. ``runner`` and ``monitor`` are None until it has been started."""

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
        if record.runner is not None:
            return record.runner.alive
        # Between start and record only its creator knows of it; without a creator, whether somebody listens decides.
        return record.creator.alive or self._answers()

    def _answers(self) -> bool:
        directory = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(f"/proc/self/fd/{directory}/{self.socket.name}")
        except OSError:
            return False
        finally:
            os.close(directory)
        return True

    def remove(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.path, ignore_errors=True)


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
    if record.runner is not None and not await processes.wait(record.runner, patience, kill=True):
        return False
    if record.monitor is None:
        return True
    # The monitor ends by itself once it has collected the runner; killed before, it would leave a zombie to init.
    if await processes.wait(record.monitor, 1.0, kill=False):
        return True
    return await processes.wait(record.monitor, patience, kill=True)


def directories(root: Path) -> Iterator[Directory]:
    """The directories of all sandboxes under ``root``."""
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(root.iterdir()):
            if entry.is_dir():
                yield Directory(entry)


def _parse(data: dict[str, Any]) -> Record:
    data["owner"] = Owner(**data["owner"])
    for name in ("creator", "runner", "monitor"):
        if data[name] is not None:
            data[name] = Identity(**data[name])
    if data.get("layer") is not None:
        data["layer"] = Layer(**data["layer"])
    return Record(**data)
