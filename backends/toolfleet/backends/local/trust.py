"""Whether a directory is safe to keep things in that sandboxes will run on."""

import os
import stat
from pathlib import Path


class Untrusted(Exception):
    """Somebody else could put files there."""


def make(path: Path, mode: int) -> None:
    """Make a directory with its parents, and check it.

    Raises:
        Untrusted: it cannot be relied on.
        OSError: it cannot be made.
    """
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    check(path)


def check(path: Path) -> None:
    """Refuse a place where anyone but this user and root could have put something.

    Raises:
        Untrusted: somebody could.
    """
    mine = (0, os.geteuid())
    for place in (path, *path.resolve().parents):
        status = place.stat()
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if status.st_uid not in mine or (writable and not status.st_mode & stat.S_ISVTX):
            raise Untrusted(f"{place} could be written by others")
