"""Sandboxes of bubblewrap that are saved, and others that start from what was saved."""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rootfs import slim_debian

from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.local.snapshots import Snapshots
from toolfleet.config.errors import SandboxLost, SnapshotLost
from toolfleet.config.profile import Profile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="saving a sandbox needs root")

OWNER = Owner("test-fleet", "worker-1")
Make = Callable[..., Awaitable[Box]]

#: What a sandbox is made to hold: every kind of file, and what is missing.
MAKE = r"""
set -e
mkdir -p /work/deep; cd /work
printf text > file; chmod 4755 file; touch -d @1000000000 file
ln file hard; ln -s /etc/passwd soft; ln -s nowhere dangling; mkfifo pipe
truncate -s 5G sparse; printf end >> sparse
printf x > $'odd\nname'; printf x > .hidden; mkdir -m 0 locked; mkdir -m 1777 open
rm -f /etc/hosts /etc/nsswitch.conf; printf changed > /etc/hostname
"""
#: The same of the original and of every copy.
LOOK = r"""
cd /work; ls -A
stat -c '%n %s %a %F' file soft dangling pipe .hidden locked open $'odd\nname'; stat -c %Y file
[ file -ef hard ] && cat hard; tail -c 3 sparse; stat -c %s sparse; [ $(du -k sparse | cut -f1) -lt 100 ] && echo sparse
ls -A /etc; cat /etc/hostname; ls /etc/hosts 2>&1; stat -c '%n %a' / /tmp /root
"""


@pytest.fixture
def name(backend: BubblewrapBackend) -> Iterator[str]:
    """A name for a snapshot, which is gone at the end."""
    name = secrets.token_hex(8)
    yield name
    backend._snapshots.drop(name)


async def start(backend: BubblewrapBackend, fields: dict[str, Any], origin: str) -> Box:
    """A sandbox that starts from a snapshot."""
    return Box(await backend.create(Profile.model_validate(fields), OWNER, origin))


@pytest.mark.parametrize("storage", ["memory", "disk"])
@pytest.mark.parametrize("base", ["host", "rootfs"])
async def test_a_copy_holds_the_same_files_and_goes_its_own_way(
    make: Make, backend: BubblewrapBackend, name: str, storage: str, base: str
) -> None:
    """Whatever is the base, and wherever the files live; what was removed stays so."""
    fields: dict[str, Any] = {"storage": storage, "disk_mib": 64}
    if base == "rootfs":
        fields["rootfs"] = str(slim_debian())
    original = await make(**fields)
    await original.text(MAKE)
    if base == "rootfs":
        await original.text("rm -r /usr/share; mkdir /usr/share; echo new > /usr/share/only; echo >> /etc/profile")
    seen = await original.text(LOOK)
    assert await original.sandbox.snapshot(name) == name
    await original.text("echo later > /work/file; echo later > /work/new")
    copy = await start(backend, fields, name)
    assert await copy.text(LOOK) == seen
    if base == "rootfs":
        assert await copy.text("ls -A /usr/share; cat /usr/share/only") == "only\nnew"
    assert await copy.text("rm -r /work; mkdir /work; ls -A /work | wc -l") == "0"
    assert await original.text("cat /work/file") == "later"
    assert await (await start(backend, fields, name)).text(LOOK) == seen
    await backend.drop(name)
    await backend.drop(name)
    with pytest.raises(SnapshotLost, match=name):
        await start(backend, fields, name)
    assert await copy.text("echo still here") == "still here"


async def test_a_copy_of_a_copy_under_its_own_limits(make: Make, backend: BubblewrapBackend, name: str) -> None:
    fields = {"disk_mib": 32}
    original = await make(**fields)
    await original.text("head -c 20M /dev/zero | tr '\\0' x > /root/much")
    await original.sandbox.snapshot(name)
    copy = await start(backend, fields, name)
    assert (await copy.sh("head -c 20M /dev/zero > /root/more")).exit_code == 1
    await copy.text("rm /root/more; echo second > /root/second")
    second = f"{name}-2"
    try:
        await copy.sandbox.snapshot(second)
        grandchild = await start(backend, fields, second)
        assert await grandchild.text("cat /root/second; stat -c %s /root/much") == f"second\n{20 * 2**20}"
    finally:
        await backend.drop(second)


async def test_processes_are_not_copied_and_what_they_hold_open_does_no_harm(
    make: Make, backend: BubblewrapBackend, name: str
) -> None:
    box = await make()
    await box.text("mkfifo /root/pipe; touch /root/f; (setsid sleep 9001 > /root/pipe &); (setsid tail -f /root/f &)")
    await box.sandbox.snapshot(name)
    copy = await start(backend, {}, name)
    assert (await copy.alive("sleep 9001"), await copy.text("ls /root")) == ([], "f\npipe")


async def test_files_of_the_host_are_out_of_reach_of_a_copy(make: Make, backend: BubblewrapBackend, name: str) -> None:
    """A link in the sandbox that means a file of the host stays a link."""
    box = await make()
    await box.text("ln -s /proc/1/root /root/up; ln -s ../../../../../../etc/shadow /root/shadow")
    await box.sandbox.snapshot(name)
    copy = await start(backend, {}, name)
    assert await copy.text("readlink /root/shadow; cat /root/shadow 2>&1 | grep -c root: || true") == (
        "../../../../../../etc/shadow\n0"
    )


async def test_a_sandbox_that_has_ended_cannot_be_saved_and_nothing_is_left(
    make: Make, backend: BubblewrapBackend, name: str
) -> None:
    box = await make()
    await box.sandbox.close()
    with pytest.raises(SandboxLost):
        await box.sandbox.snapshot(name)
    with pytest.raises(SnapshotLost):
        backend._snapshots.path(name)


async def test_a_save_that_is_cancelled_leaves_nothing(make: Make, backend: BubblewrapBackend, name: str) -> None:
    box = await make()
    await box.text("head -c 100M /dev/zero | tr '\\0' x > /root/much")
    saving = asyncio.create_task(box.sandbox.snapshot(name))
    here = backend._snapshots._here

    def open_archives() -> list[str]:
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return [target for link in links if os.path.lexists(link) and str(here) in (target := os.readlink(link))]

    while not open_archives():
        await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert open_archives() == []
    with pytest.raises(SnapshotLost):
        backend._snapshots.path(name)


def test_where_another_user_keeps_archives_tidying_leaves_them_alone(tmp_path: Path) -> None:
    """A worker without root, on a machine on which one with root saves sandboxes."""
    kept = tmp_path / "snapshots"
    (kept / "earlier-boot").mkdir(mode=0o700, parents=True)
    kept.chmod(0o700)
    os.seteuid(65534)
    try:
        Snapshots(kept).tidy()
    finally:
        os.seteuid(0)
    assert (kept / "earlier-boot").exists()
