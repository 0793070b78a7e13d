"""What a bubblewrap sandbox looks like: bubblewrap's arguments, and the files and links that the runner adds.

bubblewrap makes the namespaces and an outer view that holds the interpreter at ``/runtime`` and the future root's
mounts on a stage; the runner does the rest (``toolfleet.backends.runner.enter``).
"""

import os
from dataclasses import replace
from pathlib import Path

from toolfleet.backends import told
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.enter import LOWER, NEW_ROOT, SCRATCH, STAGE
from toolfleet.config.errors import SpecRefused
from toolfleet.config.profile import Profile

NETWORKS = frozenset({"none", "host"})
#: Where the outer view holds the interpreter bundle.
RUNTIME = "/runtime"

#: Files of the host that programs under ``/usr`` expect; none of them holds a secret or names the host.
_ETC = ("alternatives", "ld.so.cache", "mime.types", "protocols", "services", "ssl/certs", "ssl/openssl.cnf", "perl")
_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

#: What the runner needs to assemble the root and then to give all of it up.
_CAPABILITIES = ("SYS_ADMIN", "SYS_RESOURCE", "SETPCAP", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL")

_FILES = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"


def check(profile: Profile) -> None:
    """Refuse what cannot be enforced or cannot work.

    Raises:
        SpecRefused: the message says what is wrong with the profile.
    """
    if any("\0" in value for value in profile.env.values()):
        raise SpecRefused("an environment variable of the profile holds a NUL byte")
    if profile.image is not None:
        raise SpecRefused('bubblewrap takes no image: unpack it into a folder and name that as "rootfs"')
    if profile.network not in NETWORKS:
        raise SpecRefused(f"bubblewrap has no network {profile.network!r}: take {' or '.join(sorted(NETWORKS))}")
    if profile.cpu is not None:
        raise SpecRefused("bubblewrap cannot limit the use of cores: leave cpu unset, or use the backend docker")
    if foreign := profile.foreign_options("bubblewrap"):
        raise SpecRefused(f"bubblewrap does not understand options of {' and '.join(foreign)}: remove them")
    if profile.rootfs is None:
        return
    rootfs = Path(profile.rootfs)
    if not rootfs.is_dir():
        raise SpecRefused(f"the rootfs {rootfs} is not a directory")
    shells = ("bin/sh", "usr/bin/sh", "bin/bash", "usr/bin/bash")
    if not any(os.path.lexists(rootfs / shell) for shell in shells):
        raise SpecRefused(f"the rootfs {rootfs} has no shell: none of {', '.join(shells)} is there")


def namespaces(network: str) -> list[str]:
    """bubblewrap's arguments for isolation, without any file system."""
    arguments = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if network == "none":
        arguments.append("--unshare-net")
    arguments += ["--clearenv", "--as-pid-1", "--uid", "0", "--gid", "0", "--hostname", "sandbox"]
    for name in _CAPABILITIES:
        arguments += ["--cap-add", f"CAP_{name}"]
    return arguments


def view(profile: Profile, bundle: Path, lower: Path | None) -> list[str]:
    """bubblewrap's arguments for the outer view; ``lower`` is a root filesystem to bind, when there is one to bind."""
    arguments = ["--ro-bind", str(bundle), RUNTIME, "--dir", NEW_ROOT]
    if profile.rootfs is None:
        return [*arguments, *_host_base(STAGE), *_kernel_mounts(STAGE)]
    base = ["--ro-bind", str(lower), LOWER] if lower else ["--dir", LOWER]
    return [*arguments, *base, "--dir", SCRATCH, *_kernel_mounts(STAGE)]


def _host_base(root: str) -> list[str]:
    return [argument for path in _base_paths() for argument in ("--ro-bind", path, root + path)]


def _base_paths() -> list[str]:
    """What of the host is the base of a sandbox without a rootfs."""
    top = [f"/{name}" for name in _TOP_LEVEL]
    etc = [f"/etc/{name}" for name in _ETC]
    real = [path for path in top if os.path.isdir(path) and not os.path.islink(path)]
    return ["/usr", *real, *(path for path in etc if os.path.exists(path))]


def _kernel_mounts(root: str) -> list[str]:
    # /dev is a file system of its own, outside the disk limit: only its shm, which gets a limit, stays writable.
    return [
        "--proc",
        f"{root}/proc",
        "--dev",
        f"{root}/dev",
        "--tmpfs",
        f"{root}/dev/shm",  # noqa: S108 - in the sandbox
        "--remount-ro",
        f"{root}/dev",
    ]


def config(profile: Profile, *, monitor: bool) -> Config:
    """What the runner of a sandbox of this profile is told."""
    files = {"/etc/hosts": _HOSTS, "/etc/hostname": "sandbox\n"} if profile.network == "none" else _host_network_files()
    on_host = profile.rootfs is None
    return replace(
        told.config(profile),
        overlay=not on_host,
        staged=[*(_base_paths() if on_host else ()), "/proc", "/dev"],
        files=files,
        defaults=_FILES,
        links=_host_links() if on_host else {},
        monitor=monitor,
    )


def _host_links() -> dict[str, str]:
    links = {f"/{name}": os.readlink(f"/{name}") for name in _TOP_LEVEL if os.path.islink(f"/{name}")}
    if os.path.exists("/usr/lib/os-release"):
        links["/etc/os-release"] = "../usr/lib/os-release"
    return links


def _host_network_files() -> dict[str, str]:
    files = {}
    for path in ("/etc/hosts", "/etc/resolv.conf"):
        try:
            files[path] = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            files[path] = ""
    return files
