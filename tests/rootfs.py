"""A minimal Debian, unpacked once and kept in the cache, for tests that need a root file system or an image."""

import os
import shutil
import subprocess
from pathlib import Path

from services import missing

REPOSITORY = Path(__file__).parents[1]
#: What is expensive to fetch and the same for every run.
CACHE = Path("/var/cache/toolfleet")
#: What the recorded calls' roots had beyond a minimal Debian.
PACKAGES = ["bsdextrautils", "curl", "gawk", "git", "jq", "net-tools", "procps", "psmisc", "tree"]


def debian() -> Path:
    """Its folder."""
    return _unpacked("rootfs-bookworm-recorded", *PACKAGES)


def slim_debian() -> Path:
    """The folder of one with no more in it than certificates."""
    return _unpacked("rootfs-bookworm-slim", "ca-certificates")


def _unpacked(name: str, *packages: str) -> Path:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        missing("root and debootstrap, to unpack a minimal Debian")
    folder = CACHE / name
    subprocess.run([REPOSITORY / "scripts/make-rootfs", folder, *packages], check=True)
    return folder


def static_busybox() -> Path:
    """A busybox that needs no libc."""
    found = shutil.which("busybox", path="/bin:/usr/bin")
    if found is None or b"ld-linux" in Path(found).read_bytes()[:4096]:
        missing("busybox-static")
    return Path(found)
