"""Sandboxes whose files live on a disk: ext4 images, and nothing of them left behind."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.local import images
from toolfleet.backends.local.images import Images
from toolfleet.backends.local.records import Directory, directories
from toolfleet.config.errors import SandboxStartFailed, SpecRefused
from toolfleet.config.profile import Profile

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box

ME = Owner("fleet", "me")


def loops(folder: Path) -> list[str]:
    """Loop devices over images of a folder."""
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            text = entry.read_text()
        except OSError:  # cleared meanwhile
            continue
        if text.startswith(f"{folder}/"):
            found.append(text)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where images of the running test are, and are no more at its end."""
    path = Path(tempfile.mkdtemp(prefix="toolfleet-images-", dir="/var/tmp"))
    try:
        Images(path).check()
    except SpecRefused as error:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"CI must have loop devices: {error}")
        pytest.skip(str(error))
    yield path
    assert not list(path.iterdir())
    shutil.rmtree(path)


@pytest.fixture
async def disks(runtime_dir: Path, folder: Path) -> AsyncIterator[BubblewrapBackend]:
    """A backend of its own; at the end no loop device is left."""
    backend = BubblewrapBackend(runtime_dir, images=folder)
    yield backend
    for ref in await backend.list():
        await backend.destroy(ref)
    async with asyncio.timeout(10):
        while loops(folder):
            await asyncio.sleep(0.01)


@pytest.fixture
def on_disk(disks: BubblewrapBackend, box: "Box") -> "Callable[..., Awaitable[Box]]":
    """Makes sandboxes on disk."""

    async def make(**profile: Any) -> "Box":
        return type(box)(await disks.create(Profile(**{"storage": "disk", **profile}), ME))

    return make


async def test_the_root_is_ext4_of_the_size_that_was_asked_for(on_disk: "Callable[..., Awaitable[Box]]") -> None:
    """With ordinary directories of 4 KiB, mounted so that nothing on it can give power, and nothing else on it."""
    box = await on_disk(disk_mib=64)
    kind, total = (await box.text("df --output=fstype,size -B1M / | tail -1")).split()
    assert kind == "ext4"
    assert 60 <= int(total) <= 64
    assert (await box.text("mkdir -p /d/e /d/f; du -k /d | sort -k2")).split() == ["12", "/d", "4", "/d/e", "4", "/d/f"]
    options = (await box.text("grep ' / ext4 ' /proc/mounts")).split()[3].split(",")
    assert {"nosuid", "nodev", "rw"} <= set(options)
    assert "lost+found" not in await box.text("ls -A /")
    assert await box.text("stat -c '%U %a' / /tmp /root /etc") == "root 755\nroot 1777\nroot 700\nroot 755"
    assert await box.text("touch /usr/x 2>/dev/null || echo no; touch /tmp/x && stat -c %U /tmp/x") == "no\nroot"
    await box.sandbox.close()


async def test_the_look_of_a_sandbox_does_not_depend_on_its_storage(
    on_disk: "Callable[..., Awaitable[Box]]", make: "Callable[..., Awaitable[Box]]"
) -> None:
    """The same files with the same owners and modes, the same devices, the same environment."""
    look = "find / -xdev -printf '%p %y %m %u %l\\n' | sort; ls -l /dev | wc -l; ulimit -a; grep Cap /proc/self/status"
    seen = [await (await factory()).text(look) for factory in (on_disk, make)]
    assert seen[0] == seen[1]


async def test_the_limit_holds_and_is_named(on_disk: "Callable[..., Awaitable[Box]]") -> None:
    """Commands get ENOSPC, writes a sentence, and what is deleted can be used again."""
    box = await on_disk(disk_mib=16)
    assert b"No space left" in (await box.sh("cat /dev/zero > /fill")).stderr
    assert 12 <= int((await box.text("du -m /fill")).split()[0]) <= 16
    assert (await box.write("/y", b"x" * 2_000_000)).error == "No space left: the sandbox may write 16 MiB"
    await box.text("rm /fill")
    assert (await box.write("/y", b"x" * 2_000_000)).error is None
    assert len((await box.read("/y", max_bytes=3_000_000)).stdout) == 2_000_000


async def test_files_are_not_memory(on_disk: "Callable[..., Awaitable[Box]]") -> None:
    """A workspace ten times as large as the memory is written, read and held, and no process is killed for it."""
    box = await on_disk(disk_mib=512, memory_mib=40)
    outcome = await box.sh("head -c 400M /dev/zero > /big && cat /big | wc -c", timeout=110)
    assert (outcome.stdout, outcome.error) == (b"419430400\n", None)
    killed = await box.sh("head -c 200M /dev/zero | tail -n 1 | wc -c", timeout=60)
    assert b"209715200" not in killed.stdout


async def test_a_rootfs_takes_its_changes_to_the_disk(on_disk: "Callable[..., Awaitable[Box]]", tmp_path: Path) -> None:
    """Also a directory of the base that is deleted and made again; the base stays what it was."""
    root = tmp_path / "rootfs"
    (root / "opt/deep").mkdir(parents=True)
    (root / "opt/deep/file").write_text("deep\n")
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr").mkdir()
    busybox = shutil.which("busybox")
    if busybox is None or b"ld-linux" in Path(busybox).read_bytes()[:4096]:
        pytest.skip("needs busybox-static")
    (root / "usr/bin").mkdir()
    shutil.copy(busybox, root / "usr/bin/busybox")
    for name in ("sh", "ls", "cat", "rm", "mkdir", "touch", "mv", "df", "dd", "du"):
        (root / "usr/bin" / name).symlink_to("busybox")
    box = await on_disk(rootfs=str(root), disk_mib=32)
    assert await box.text("cat /opt/deep/file; rm -r /opt/deep; mkdir /opt/deep; touch /opt/deep/x") == "deep"
    assert await box.text("ls /opt/deep; mv /opt/deep /opt/deeper; ls /opt /opt/deeper") == (
        "x\n/opt:\ndeeper\n\n/opt/deeper:\nx"
    )
    assert 28 <= int((await box.text("df -m /")).splitlines()[-1].split()[1]) <= 32
    assert b"No space left" in (await box.sh("dd if=/dev/zero of=/fill bs=65536")).stderr
    assert (root / "opt/deep/file").read_text() == "deep\n"
    assert not (root / "fill").exists()


async def test_many_start_side_by_side(disks: BubblewrapBackend, box: "Box", folder: Path) -> None:
    """Eight at once, each on a device of its own; closing one leaves the others alone."""
    profile = Profile(storage="disk", disk_mib=32)
    sandboxes = [type(box)(s) for s in await asyncio.gather(*(disks.create(profile, ME) for _ in range(8)))]
    assert len(loops(folder)) == 8
    devices = [await s.text(f"echo {n} > /me; df --output=source / | tail -1") for n, s in enumerate(sandboxes)]
    assert len(set(devices)) == 8
    assert [await s.text("cat /me") for s in sandboxes] == [str(n) for n in range(8)]
    await sandboxes[0].sandbox.close()
    await box.eventually(lambda: asyncio.sleep(0, len(loops(folder)) == 7))
    assert await sandboxes[1].text("cat /me") == "1"
    await asyncio.gather(*(s.sandbox.close() for s in sandboxes))


@pytest.mark.parametrize("victims", [("runner",), ("monitor", "runner"), ("runner", "monitor")])
async def test_killed_processes_leave_no_mount_no_device_no_image(
    on_disk: "Callable[..., Awaitable[Box]]", disks: BubblewrapBackend, folder: Path, victims: tuple[str, ...]
) -> None:
    """Before anybody has cleaned up; after the next list not even a directory is left."""
    box = await on_disk()
    await box.text("echo dirty > /file; head -c 10M /dev/zero > /more; sleep 9001 >/dev/null 2>&1 &")
    record = Directory(Path(box.sandbox.ref.address).parent).read()
    assert record is not None
    for victim in victims:
        os.kill(getattr(record, victim).pid, signal.SIGKILL)
    await box.eventually(lambda: asyncio.sleep(0, not loops(folder)))
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()

    async def gone() -> bool:
        return await disks.list(ME) == []

    await box.eventually(gone)
    assert box.sandbox.ref.id not in [directory.id for directory in directories(disks._root)]


@pytest.mark.parametrize("milliseconds", [0, 3, 6, 10, 20, 30, 45, 70, 5000])
async def test_a_worker_killed_at_any_moment_leaves_nothing_that_a_list_does_not_find(
    disks: BubblewrapBackend, folder: Path, box: "Box", milliseconds: int
) -> None:
    """Killed before it has finished: the sandbox is still there, or nothing is; its disk goes with it."""
    script = f"""
import asyncio, os, signal, sys, threading, time
from pathlib import Path
from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.config.profile import Profile

async def main():
    backend = BubblewrapBackend(Path({str(disks._runtime_dir)!r}), images=Path({str(folder)!r}))
    await backend.probe()
    threading.Timer({milliseconds / 1000}, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    await backend.create(Profile(storage="disk"), Owner("f", "dead"))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], stderr=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL, done.stderr

    async def gone() -> bool:
        for ref in await disks.list():
            await disks.destroy(ref)
        return not loops(folder)

    await box.eventually(gone)


async def test_without_the_means_it_is_refused_and_never_memory_instead(
    disks: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Not root, no loop devices, no mkfs, a folder in memory: the reason, the remedy, and a note in the probe."""
    monkeypatch.setattr(images, "_try_out", images._try_out.__wrapped__)
    profile = Profile(storage="disk")
    lacks: list[tuple[str, object, str]] = [
        ("_CONTROL", "/dev/loop-none", "modprobe loop"),
        ("_mkfs", _no_mkfs, "install the package e2fsprogs"),
        ("_magic", lambda _: 0x01021994, "is memory"),
    ]
    for name, value, words in lacks:
        with monkeypatch.context() as patch:
            patch.setattr(images, name, value)
            with pytest.raises(SpecRefused, match=words):
                await disks.create(profile, ME)
            assert any(words in note for note in (await disks.probe()).notes)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(SpecRefused, match="root"):
            Images(folder).check()
    folder.chmod(0o777)
    with pytest.raises(SpecRefused, match="could be written by others"):
        await disks.create(profile, ME)
    folder.chmod(0o700)
    assert await disks.list(ME) == []


def _no_mkfs() -> str:
    raise FileNotFoundError(2, "there is no mkfs.ext4: install the package e2fsprogs")


def bubblewraps() -> set[int]:
    """The bubblewrap processes that are children of this process, or nobody's."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "comm").read_text() == "bwrap\n" and parent in (1, os.getpid()):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


async def test_a_start_that_fails_half_way_leaves_no_process(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bubblewrap's child waits for its parent, and would do so for ever when only the parent were killed."""

    def full(self: Images, mib: int, owner: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Images, "mount", full)
    backend = BubblewrapBackend(runtime_dir)
    before = bubblewraps()
    for _ in range(8):
        with pytest.raises(SandboxStartFailed, match="No space left"):
            await backend.create(Profile(storage="disk"), ME)
    deadline = asyncio.get_running_loop().time() + 10
    while left := bubblewraps() - before:
        assert asyncio.get_running_loop().time() < deadline, left
        await asyncio.sleep(0.01)
