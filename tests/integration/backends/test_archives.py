"""Archives: what is kept, and what is refused."""

import io
import lzma
import tarfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from integration.backends.conftest import Box


def archive(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:") -> bytes:
    """A tar file of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for member, body in members:
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    """A member with telling attributes."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.uid = kind, 0o640, 1_000_000_000, 1000
    for key, value in fields.items():
        setattr(info, key, value)
    return info


TREE = (
    (member("./", tarfile.DIRTYPE, mode=0o755), b""),
    (member("./dir/", tarfile.DIRTYPE, mode=0o750), b""),
    (member("./dir/file\nname"), b"content"),
    (member("./dir/run", mode=0o755), b"#!/bin/sh\necho ran"),
    (member("./dir/hard", tarfile.LNKTYPE, linkname="./dir/run"), b""),
    (member("./dir/link", tarfile.SYMTYPE, linkname="../dir/run"), b""),
    (member("./usr/", tarfile.DIRTYPE, mode=0o700), b""),
)


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("dest", ["/", "/some/new place"])
async def test_a_tree_is_unpacked_with_modes_times_and_links(box: "Box", mode: str, dest: str) -> None:
    """Times of directories too; read-only directories of the base in the way are no reason to fail."""
    outcome = await box.unpack(dest, archive(*TREE, mode=mode))
    assert (outcome.error, outcome.detail) == (None, {"members": len(TREE)})
    told = await box.text("stat -c '%a %Y %F' dir dir/file* dir/run dir/link; readlink dir/link; dir/link", cwd=dest)
    assert told.splitlines() == [
        "750 1000000000 directory",
        "640 1000000000 regular file",
        "755 1000000000 regular file",
        "777 1000000000 symbolic link",
        "../dir/run",
        "ran",
    ]
    assert await box.text("stat -c %i dir/run dir/hard | uniq | wc -l", cwd=dest) == "1"


@pytest.mark.parametrize(
    "evil",
    [
        member("/abs"),
        member("../out"),
        member("a/../../out"),
        member("ok", tarfile.SYMTYPE, linkname="/etc"),
        member("ok", tarfile.SYMTYPE, linkname="../.."),
        member("ok", tarfile.LNKTYPE, linkname="../out"),
        member("ok", tarfile.LNKTYPE, linkname="/etc/passwd"),
        member("dev", tarfile.CHRTYPE),
        member("dev", tarfile.BLKTYPE),
        member("fifo", tarfile.FIFOTYPE),
    ],
    ids=lambda evil: f"{evil.name}-{evil.linkname}-{evil.type!r}",
)
async def test_what_would_leave_the_destination_is_refused(box: "Box", evil: tarfile.TarInfo) -> None:
    """By name, by link or by device; the sentence names the member."""
    outcome = await box.unpack("/tmp/in/dest", archive((evil, b"")))
    assert outcome.exit_code != 0
    assert evil.name in (outcome.error or "")
    assert await box.text("ls -A /tmp /tmp/in /tmp/in/dest | grep -v : | xargs") == "in dest"


async def test_a_link_that_was_there_before_leads_nowhere_else(box: "Box") -> None:
    """Not even a directory's link that a command has put into the destination."""
    await box.text("mkdir /tmp/dest; ln -s /etc /tmp/dest/sub")
    outcome = await box.unpack("/tmp/dest", archive((member("sub/evil"), b"x")))
    assert "sub/evil" in (outcome.error or "")
    assert (await box.sh("test -e /etc/evil")).exit_code == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"garbage",
        b"\x1f\x8b garbage",
        archive(*TREE, mode="w:gz")[:-20],
        archive(*TREE, mode="w:xz")[:-20],
        archive(*TREE, mode="w:bz2")[:-20],
        lzma.compress(b"no tar"),
        archive((member("a"), b"x" * 5000))[:2000],
    ],
    ids=range(8),
)
async def test_a_damaged_archive_is_reported_in_a_sentence(box: "Box", damage: bytes) -> None:
    """Whatever the compression raises."""
    outcome = await box.unpack("/tmp/d", damage)
    assert outcome.exit_code != 0
    assert (outcome.error or "").startswith(("Not a readable tar archive", "The archive ends within a member"))


async def test_an_archive_larger_than_the_disk_is_reported(box: "Box") -> None:
    """As lack of space."""
    body = archive(*((member(f"f{n}"), b"\0" * 60_000_000) for n in range(10)), mode="w:gz")
    outcome = await box.unpack("/tmp", body)
    assert outcome.error == "No space left: the sandbox may write 512 MiB"
