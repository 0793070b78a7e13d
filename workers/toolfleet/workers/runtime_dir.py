"""Where the sockets of sandboxes live on this machine."""

import os
import tempfile
from pathlib import Path

from toolfleet.config.errors import SettingsError

#: A unix socket's path has at most 107 bytes; this much is left for the names below the folder.
LONGEST = 60


def runtime_dir(configured: Path | None) -> Path:
    """A folder that only this user can enter, made when missing.

    Raises:
        SettingsError: it is someone else's, or its path is too long for a socket.
    """
    folder = configured or _default()
    if len(os.fsencode(folder)) > LONGEST:
        raise SettingsError(f"runtime_dir {folder} is too long for a unix socket: at most {LONGEST} bytes")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise SettingsError(f"runtime_dir {folder} cannot be used: {error}") from None
    if status.st_uid != os.geteuid():
        raise SettingsError(f"runtime_dir {folder} belongs to another user; set TOOLFLEET_RUNTIME_DIR to one of yours")
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _default() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        return Path(base) / "toolfleet"
    if os.geteuid() == 0:
        return Path("/run/toolfleet")
    return Path(tempfile.gettempdir()) / f"toolfleet-{os.geteuid()}"
