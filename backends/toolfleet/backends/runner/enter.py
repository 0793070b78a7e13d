"""How the runner goes from the outer view, which bubblewrap made, into the sandbox's own root.

The outer view holds the interpreter bundle and, on a stage, the mounts that bubblewrap has made for the sandbox. The
new root is assembled from a writable layer, in memory or on disk, and these. After the pivot nothing of the host but
the read-only base can be reached, not even the bundle: every module must have been imported before.
"""

import contextlib
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from toolfleet.backends.runner import kernel, restore
from toolfleet.backends.runner.config import Config

NEW_ROOT = "/newroot"
#: Where an overlay's read-only base, its writable layer, and mounts for places in the new root wait before the pivot.
LOWER, SCRATCH, STAGE = "/lower", "/scratch", "/stage"

#: Directories of every sandbox, with their modes.
_DIRECTORIES = {
    "etc": 0o755,
    "etc/ssl": 0o755,
    "home": 0o755,
    "root": 0o700,
    "run": 0o755,
    "tmp": 0o1777,
    "var": 0o755,
    "var/tmp": 0o1777,
}
#: Fake root keeps what makes it root over its own files; none of these reaches beyond the user namespace.
_KEEP = (kernel.CAP_CHOWN, kernel.CAP_DAC_OVERRIDE, kernel.CAP_FOWNER, kernel.CAP_FSETID, kernel.CAP_KILL)
#: A tmpfs holds this many inodes for each MiB: many small files fit, and their kernel memory stays bounded.
INODES_PER_MIB = 256
_SHM_LIMIT = 64 * 1024 * 1024


def enter(config: Config, mounts: Mapping[str, int]) -> int:
    """Assemble the root, pivot into it, give up all privileges.

    ``mounts`` may hold detached mounts: ``lower``, the base of an overlay, where bubblewrap has not bound it already;
    ``disk``, the writable layer, where it is not to be memory. ``origin`` is the archive of a layer to begin with.

    Returns:
        A descriptor of a directory on the writable layer, for spooling; commands cannot reach or remove it.
    """
    kernel.join_new_keyring()
    if config.overlay:
        spool = _mount_overlay(config, mounts)
    else:
        _mount_writable(config, mounts, NEW_ROOT)
        _restore(mounts, NEW_ROOT)
        spool = os.open(NEW_ROOT, os.O_RDONLY | os.O_DIRECTORY)
    for path in config.staged:
        _unstage(path)
    if "origin" not in mounts:  # which lacks what was removed there
        _furnish(config)
    _confine_proc()
    _limit_shm(config)
    kernel.pivot_root(NEW_ROOT)
    with contextlib.suppress(OSError):  # a command that names no directory of its own will be told
        os.makedirs(config.workdir, exist_ok=True)
    kernel.drop_privileges(_KEEP)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return spool


def _size(disk: int) -> str:
    return f"size={disk},nr_inodes={max(1024, disk // 2**20 * INODES_PER_MIB)}"


def _mount_writable(config: Config, mounts: Mapping[str, int], target: str) -> None:
    if "disk" in mounts:
        kernel.move_mount(mounts["disk"], target)
    else:
        kernel.mount("tmpfs", target, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=755,{_size(config.disk)}")


def _mount_overlay(config: Config, mounts: Mapping[str, int]) -> int:
    if "lower" in mounts:
        kernel.move_mount(mounts["lower"], LOWER)
    _mount_writable(config, mounts, SCRATCH)
    for name in ("upper", "work", "spool"):
        os.mkdir(f"{SCRATCH}/{name}", 0o755)
    _restore(mounts, f"{SCRATCH}/upper")
    layers = f"lowerdir={LOWER},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work,userxattr"
    kernel.mount("overlay", NEW_ROOT, "overlay", kernel.MS_NOSUID | kernel.MS_NODEV, layers)
    return os.open(f"{SCRATCH}/spool", os.O_RDONLY | os.O_DIRECTORY)


def _restore(mounts: Mapping[str, int], target: str) -> None:
    if "origin" in mounts:
        restore.restore(mounts["origin"], target)


def _unstage(path: str) -> None:
    """Move a mount from the stage to its place, which is made where the base has nothing that fits."""
    source, target = Path(STAGE + path), Path(NEW_ROOT + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        if target.is_symlink() or not target.is_dir():
            target.unlink(missing_ok=True)
            target.mkdir(mode=0o755)
    else:
        target.touch()
    kernel.mount(str(source), str(target), None, kernel.MS_MOVE)


def _furnish(config: Config) -> None:
    """Make the directories, files and links that the base lacks."""
    for name, mode in _DIRECTORIES.items():
        directory = Path(NEW_ROOT, name)
        made = not os.path.lexists(directory)
        if made:
            directory.mkdir(parents=True)
        if made or not config.overlay:  # without a base, it was made on the way to something else
            directory.chmod(mode)
    for path, target in config.links.items():
        if not os.path.lexists(NEW_ROOT + path):
            os.symlink(target, NEW_ROOT + path)
    for path, text in config.defaults.items():
        if not os.path.lexists(NEW_ROOT + path):
            _write(Path(NEW_ROOT + path), text)
    for path, text in config.files.items():
        _write(Path(NEW_ROOT + path), text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # never through a link of the base: it could lead out of the new root
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    path.chmod(0o644)


def _confine_proc() -> None:
    """Forbid nested user namespaces, in which a command would be privileged, and make kernel settings read-only."""
    settings = f"{NEW_ROOT}/proc/sys"
    with contextlib.suppress(OSError), open(f"{settings}/user/max_user_namespaces", "w") as file:
        file.write("0")
    kernel.mount(settings, settings, None, kernel.MS_BIND | kernel.MS_REC)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("none", settings, None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | flags)


def _limit_shm(config: Config) -> None:
    shm = f"{NEW_ROOT}/dev/shm"  # noqa: S108 - in the sandbox
    options = f"mode=1777,{_size(min(config.disk, _SHM_LIMIT))}"
    kernel.mount("none", shm, None, kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV, options)
    os.chmod(shm, 0o1777)  # noqa: S103 - as on every Linux
