"""Which processes of a user run on this machine."""

import contextlib
from pathlib import Path


def processes_of(users: set[int]) -> dict[int, str]:
    """Host processes of these users, with their command lines; zombies are their parent's affair."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = (entry / "status").read_text()
                if "State:\tZ" not in status and int(status.partition("Uid:")[2].split()[0]) in users:
                    found[int(entry.name)] = (entry / "cmdline").read_text()
    return found
