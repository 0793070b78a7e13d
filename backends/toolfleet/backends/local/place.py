"""Names for places: workers that come to the same name can reach each other's sandboxes."""

import hashlib
import os
from pathlib import Path

from toolfleet.backends.local import processes


def of_directory(kind: str, root: Path, *, processes_too: bool) -> str:
    """The place of sandboxes that are reached through ``root``, made when missing.

    ``processes_too`` where whoever takes one over must see its processes, i.e. share the pid namespace.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder, pids = root.stat(), os.stat("/proc/self/ns/pid")
    # The boot id: numbers of devices and inodes mean something on one running machine only.
    seen = (processes.boot_id(), folder.st_dev, folder.st_ino, os.geteuid(), *((pids.st_ino,) if processes_too else ()))
    return of(kind, seen)


def of(kind: str, what: object) -> str:
    """A short name for whatever identifies a place."""
    return f"{kind}-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"
