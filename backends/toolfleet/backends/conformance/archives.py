"""Archives: what is kept, and what is refused."""

import io
import lzma
import tarfile

from toolfleet.backends.conformance.core import Rig, check


def archive(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:") -> bytes:
    """A tar file of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
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
#: What ``stat`` and ``readlink`` tell of it, and what its program prints.
TOLD = [
    "750 1000000000 directory",
    "640 1000000000 regular file",
    "755 1000000000 regular file",
    "777 1000000000 symbolic link",
    "../dir/run",
    "ran",
]
TELL = "stat -c '%a %Y %F' dir dir/file* dir/run dir/link; readlink dir/link; dir/link"


@check
async def a_tree_is_unpacked_with_modes_times_and_links(rig: Rig) -> None:
    """Plain and compressed; times of directories too."""
    box = await rig.box()
    for kind in ("", "gz", "bz2", "xz"):
        dest = f"/tmp/some/new place {kind}"
        outcome = await box.unpack(dest, archive(*TREE, mode=f"w:{kind}"))
        assert (outcome.error, outcome.detail) == (None, {"members": len(TREE)})
        assert (await box.text(TELL, cwd=dest)).splitlines() == TOLD
        assert await box.text("stat -c %i dir/run dir/hard | uniq | wc -l", cwd=dest) == "1"


_EVIL = (
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
)


@check
async def what_would_leave_the_destination_is_refused(rig: Rig) -> None:
    """By name, by link, by device, or through a link that a command has put there; the sentence names the member."""
    box = await rig.box()
    for evil in _EVIL:
        outcome = await box.unpack("/tmp/in/dest", archive((evil, b"")))
        assert outcome.exit_code != 0, (evil.name, evil.linkname)
        assert evil.name in (outcome.error or ""), (evil.name, outcome.error)
        assert await box.text("ls -A /tmp/in /tmp/in/dest | grep -v : | xargs") == "dest"
    await box.text("mkdir /tmp/dest /tmp/outside; ln -s /tmp/outside /tmp/dest/sub")
    outcome = await box.unpack("/tmp/dest", archive((member("sub/evil"), b"x")))
    assert "sub/evil" in (outcome.error or "")
    assert await box.text("ls -A /tmp/outside") == ""


@check
async def a_damaged_archive_is_reported_in_a_sentence(rig: Rig) -> None:
    """Whatever the compression raises."""
    box = await rig.box()
    for damage in (
        b"",
        b"garbage",
        b"\x1f\x8b garbage",
        archive(*TREE, mode="w:gz")[:-20],
        archive(*TREE, mode="w:xz")[:-20],
        archive(*TREE, mode="w:bz2")[:-20],
        lzma.compress(b"no tar"),
        archive((member("a"), b"x" * 5000))[:2000],
    ):
        outcome = await box.unpack("/tmp/d", damage)
        assert outcome.exit_code != 0
        error = outcome.error or ""
        assert error.startswith(("Not a readable tar archive", "The archive ends within a member")), error
