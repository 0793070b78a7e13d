"""What a failure of bubblewrap means, and what to do about it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from toolfleet.backends.local import layout
from toolfleet.config.errors import BackendUnavailable

#: The first version with everything that is used here; ``--cap-add`` and ``--as-pid-1`` are older.
OLDEST = (0, 4, 0)
_PATIENCE = 20

#: Patterns of last words, what they mean, and whether another try may end better. The first match counts.
_CAUSES = (
    (
        r"Resource temporarily unavailable|No space left on device|Cannot allocate memory",
        "The machine is out of processes, namespaces or memory: see ulimit -u and sysctl user.max_user_namespaces.",
        True,
    ),
    (
        r"[Nn]o permissions to creat.* new namespace|Creating new namespace failed|clone.*not permitted",
        (
            "This machine forbids user namespaces. {sysctls}In a container, start it with "
            "--security-opt seccomp=unconfined --security-opt systempaths=unconfined."
        ),
        False,
    ),
    (
        r"setting up uid map|uid map",
        "A security policy (AppArmor?) keeps bubblewrap from mapping users. {sysctls}",
        False,
    ),
    (
        r"[Cc]an't mount proc|mount proc",
        "The container hides parts of /proc: start it with --security-opt systempaths=unconfined.",
        False,
    ),
    (
        r"[Uu]nknown option",
        "bubblewrap is too old: install version 0.4 or later.",
        False,
    ),
    (
        r"mount overlay",
        "A profile with rootfs needs Linux 5.11 or later, and tmpfs with user xattrs (6.6) to delete from its base.",
        False,
    ),
)
_SYSCTLS = {
    "kernel/unprivileged_userns_clone": ("0", "Set sysctl kernel.unprivileged_userns_clone=1. "),
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        (
            "Set sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
            "or load an AppArmor profile that lets bwrap use user namespaces. "
        ),
    ),
    "user/max_user_namespaces": ("0", "Set sysctl user.max_user_namespaces to a few thousand. "),
}


def find_bwrap() -> str:
    """Path of bubblewrap.

    Raises:
        BackendUnavailable: it is not installed.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise BackendUnavailable(
            "bubblewrap is not installed: there is no bwrap on PATH. Install the package bubblewrap "
            "(apt-get install bubblewrap, dnf install bubblewrap, apk add bubblewrap)."
        )
    return path


def try_out(bwrap: str, uid: int | None) -> None:
    """Start a trivial sandbox, as the user that real ones run as. Blocking.

    Raises:
        BackendUnavailable: it does not start; the message says why and what to do.
    """
    version = _run([bwrap, "--version"], None)
    found = re.search(r"(\d+)\.(\d+)\.?(\d+)?", version.stdout)
    if found and tuple(int(part or 0) for part in found.groups()) < OLDEST:
        raise BackendUnavailable(f"{version.stdout.strip()} is too old: install version 0.4 or later.")
    view = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - in the sandbox
    done = _run([bwrap, *layout.namespaces("none"), *view, "--", "/bin/sh", "-c", "exit 0"], uid)
    if done.returncode:
        raise BackendUnavailable(explain(done.stderr.strip() or f"bwrap ended with {done.returncode}"))


def explain(words: str) -> str:
    """bubblewrap's or the runner's last words, with the cause and the remedy when they are known."""
    for pattern, advice, _ in _CAUSES:
        if re.search(pattern, words):
            return (
                f"bubblewrap cannot start a sandbox: {words[-1000:]} {advice.format(sysctls=_guilty_sysctls())}".strip()
            )
    return f"bubblewrap cannot start a sandbox: {words[-1000:]}"


def hopeless(words: str) -> bool:
    """Whether the cause is a property of the machine that another try would meet again."""
    return next((not temporary for pattern, _, temporary in _CAUSES if re.search(pattern, words)), False)


def _guilty_sysctls() -> str:
    advice = ""
    for name, (bad, remedy) in _SYSCTLS.items():
        try:
            if Path("/proc/sys", name).read_text().strip() == bad:
                advice += remedy
        except OSError:
            continue
    return advice


def _run(command: list[str], uid: int | None) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            cwd="/",
            env={"PATH": os.defpath},
            user=uid,
            group=uid,
            extra_groups=None if uid is None else (),
        )
    except subprocess.TimeoutExpired as error:
        raise BackendUnavailable(f"bubblewrap did not end within {_PATIENCE} s") from error
