"""Sandboxes on a root filesystem of their own: busybox, no Python, no bash, no glibc."""

import hashlib
import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rootfs import static_busybox

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root filesystem that holds a static busybox and a few files; nobody else may enter its parents."""
    root = tmp_path / "root fs"
    for name in ("bin", "etc", "opt/deep"):
        (root / name).mkdir(parents=True)
    shutil.copy(static_busybox(), root / "bin/busybox")
    for name in ("sh", "ls", "cat", "rm", "mkdir", "touch", "stat", "id", "echo", "chmod", "sleep", "ps", "mv"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/motd").write_text("welcome\n")
    (root / "opt/deep/file").write_text("deep\n")
    (root / "etc/resolv.conf").symlink_to("/run/nowhere")
    return root


@pytest.fixture
async def bare(make: "Callable[..., Awaitable[Box]]", rootfs: Path) -> "AsyncIterator[Box]":
    """A sandbox on it."""
    box = await make(rootfs=str(rootfs), disk_mib=16)
    yield box
    await box.sandbox.close()


def fingerprint(root: Path) -> str:
    """Everything about a tree: names, modes, owners, times, contents."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        facts = (path, status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(repr(facts).encode() + content)
    return digest.hexdigest()


async def test_commands_and_files_work_without_bash_python_or_libc(bare: "Box") -> None:
    """The interpreter of the runner comes along and is invisible; the shell is sh."""
    assert await bare.text("cat /etc/motd; id -u; echo $0") == "welcome\n0\nsh"
    assert (await bare.write("/new/f", b"x" * 2_000_000)).error is None
    assert len((await bare.read("/new/f", max_bytes=3_000_000)).stdout) == 2_000_000
    assert "runtime" not in await bare.text("ls -A /")
    assert (await bare.sh("sleep 60", timeout=0.2)).exit_code == 124


async def test_the_base_can_be_changed_and_stays_what_it_was(bare: "Box", rootfs: Path) -> None:
    """Append, replace, delete, rename, chmod, even the shell itself: all of it happens in the sandbox's own layer."""
    before = fingerprint(rootfs)
    await bare.text("echo more >> /etc/motd; rm -r /opt/deep; mkdir /opt/deep; touch /opt/deep/x; chmod 700 /opt")
    assert await bare.text("cat /etc/motd; ls /opt/deep; mv /etc/motd /m; ls /m") == "welcome\nmore\nx\n/m"
    await bare.text("rm /bin/cat")
    assert (await bare.write("/bin/cat", b"#!/bin/sh\necho replaced", mode=0o755)).error is None
    assert await bare.text("/bin/cat") == "replaced"
    await bare.sh("rm -rf /bin /etc /opt")
    assert fingerprint(rootfs) == before


async def test_the_disk_limit_holds_for_the_layer(bare: "Box") -> None:
    """What is written over the base counts."""
    outcome = await bare.sh("cat /dev/zero > /fill")
    assert b"No space left" in outcome.stderr
    assert (await bare.write("/y", b"x" * 2_000_000)).error == "No space left: the sandbox may write 16 MiB"


async def test_two_sandboxes_share_a_base_and_nothing_else(make: "Callable[..., Awaitable[Box]]", rootfs: Path) -> None:
    """Each sees its own changes."""
    one, two = await make(rootfs=str(rootfs)), await make(rootfs=str(rootfs))
    await one.text("echo one > /etc/motd")
    assert await two.text("cat /etc/motd") == "welcome"


async def test_a_link_of_the_base_cannot_redirect_the_files_that_are_added(
    make: "Callable[..., Awaitable[Box]]", rootfs: Path
) -> None:
    """A dangling resolv.conf is replaced by a file of the sandbox's own."""
    box = await make(rootfs=str(rootfs), network="host")
    assert (await box.read("/etc/resolv.conf")).stdout == Path("/etc/resolv.conf").read_bytes()
    assert (rootfs / "etc/resolv.conf").is_symlink()
