"""Trees of this machine as archives and back; archives made by an enemy write nothing beside their target."""

import contextlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolfleet.config.errors import LocalFileError, RemoteFileError, TransferError
from toolfleet.producer import trees

ENOUGH = 10_000_000


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """One member of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def archive(*members: tarfile.TarInfo, content: bytes = b"x") -> io.BytesIO:
    """An archive of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for info in members:
            info.size = len(content) if info.type == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def seen(root: Path) -> dict[str, str]:
    """Everything below a directory, by name: what it is, and its mode or target."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = os.fsencode(path.relative_to(root)).decode("utf-8", "surrogateescape")
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = f"{'dir' if path.is_dir() else path.read_text()} {stat.S_IMODE(path.stat().st_mode):o}"
    return found


def planted(root: Path) -> Path:
    """A tree with all that trees may have."""
    (root / "sub/empty").mkdir(parents=True)
    (root / "sub").chmod(0o750)
    (root / "run").write_text("#!")
    (root / "run").chmod(0o4711)
    (root / "sub/new\nline").write_text("")
    (root / os.fsdecode(b"\xff")).write_text("odd")
    (root / "sub/up").symlink_to("../run")
    (root / "out").symlink_to("/etc/passwd")
    (root / "near").symlink_to("../elsewhere")
    os.mkfifo(root / "fifo")
    return root


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    """T5, T7: empty directories, modes and links are preserved."""
    root = planted(tmp_path / "tree")
    packed = tmp_path / "archive"
    with packed.open("w+b") as file:
        sent = trees.pack(root, file)
        file.seek(0)
        got = trees.extract(file, tmp_path / "deep/back", ENOUGH)
    assert sent.skipped == ["fifo", "near", "out"]
    assert (got.entries, got.bytes, got.skipped) == (sent.entries, 5, [])
    expected = {name: what for name, what in seen_without_fifo(root).items() if name not in ("near", "out")}
    assert seen(tmp_path / "deep/back") == expected | {"run": "#! 711"}
    assert os.listdir(tmp_path / "deep") == ["back"]


def seen_without_fifo(root: Path) -> dict[str, str]:
    """`seen`, which would wait for a writer."""
    (root / "fifo").unlink()
    return seen(root)


_EVIL = [
    (member("/abs"),),
    (member("../out"),),
    (member("a/../../out"),),
    (member("a"), member("a")),
    (member("a"), member("a/b")),
    (member("/".join("d" * 300)),),
    (member("a\0b"), member("a\0c")),
]


@pytest.mark.parametrize("members", _EVIL, ids=lambda members: members[0].name[:12])
def test_what_would_be_written_elsewhere_is_refused_as_a_whole(
    tmp_path: Path, members: tuple[tarfile.TarInfo, ...]
) -> None:
    with pytest.raises(TransferError):
        trees.extract(archive(member("first"), *members), tmp_path / "in/target", ENOUGH)
    assert seen(tmp_path) == {"in": "dir 755"}


@pytest.mark.parametrize(
    ("links", "kept"),
    [
        ({"a": "/etc"}, set()),
        ({"a": ".."}, set()),
        ({"a": "x/../.."}, set()),
        ({"a": "target"}, {"a"}),
        ({"a": "a"}, {"a"}),
        ({"d/e/up": "../..", "a": "d/e/up/.."}, {"d/e/up"}),
        ({"one": "two/..", "two": ".."}, set()),
        ({"up": "..", "through": "up/etc"}, set()),
    ],
)
def test_links_that_lead_out_are_left_out_and_named(tmp_path: Path, links: dict[str, str], kept: set[str]) -> None:
    """However many of them it takes; a link that leads nowhere is harmless."""
    members = [member(name, tarfile.SYMTYPE, target) for name, target in links.items()]
    tree = trees.extract(archive(*members, member("x")), tmp_path / "target", ENOUGH)
    assert sorted(tree.skipped) == sorted(set(links) - kept)
    for path in (tmp_path / "target").rglob("*"):
        assert (os.path.realpath(path) + "/").startswith(f"{tmp_path}/target/")


def test_nothing_is_written_through_a_link_of_the_archive(tmp_path: Path) -> None:
    """The link comes first, the file that goes through it second."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for where in ("../outside", str(outside)):
        with contextlib.suppress(TransferError):
            trees.extract(archive(member("d", tarfile.SYMTYPE, where), member("d/f")), tmp_path / "target", ENOUGH)
    assert os.listdir(outside) == []


def test_a_directory_that_holds_something_is_added_to(tmp_path: Path) -> None:
    """Links that are there already are never followed: they are replaced, or in the way."""
    target, outside = tmp_path / "target", tmp_path / "outside"
    for directory in (target / "sub", outside):
        directory.mkdir(parents=True)
    (target / "sub/mine").write_text("mine")
    (target / "f").symlink_to(outside / "f")
    trees.extract(archive(member("sub/theirs"), member("f")), target, ENOUGH)
    assert seen(target) == {"f": "x 644", "sub": "dir 755", "sub/mine": "mine 644", "sub/theirs": "x 644"}
    (target / "link").symlink_to(outside)
    with pytest.raises(LocalFileError, match="is in the way"):
        trees.extract(archive(member("link/f")), target, ENOUGH)
    assert os.listdir(outside) == []
    assert sorted(os.listdir(tmp_path)) == ["outside", "target"]


def test_bounds_and_damage_are_told_by_type(tmp_path: Path) -> None:
    with pytest.raises(RemoteFileError, match="max_bytes"):
        trees.extract(archive(member("a"), content=b"x" * 100), tmp_path / "t", 99)
    whole = archive(member("a"), content=b"x" * 5000).getvalue()
    for damaged in (b"garbage" * 100, whole[:2000]):
        with pytest.raises(RemoteFileError, match="damaged"):
            trees.extract(io.BytesIO(damaged), tmp_path / "t", ENOUGH)
    with pytest.raises(LocalFileError, match="Local directory not found"):
        trees.pack(tmp_path / "none", io.BytesIO())
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalFileError, match="cannot write"):
        trees.extract(archive(member("a")), tmp_path / "file", ENOUGH)
    assert os.listdir(tmp_path) == ["file"]


_NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c\n"]), min_size=1, max_size=4).map("/".join)
_MEMBERS = st.lists(
    st.builds(
        member,
        _NAMES,
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]),
        _NAMES,
        st.integers(0, 0o7777),
    ),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(members=_MEMBERS)
def test_no_archive_writes_or_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[tarfile.TarInfo]
) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    (place / "beside").mkdir()
    try:
        trees.extract(archive(*members), place / "target", ENOUGH)
    except TransferError:
        assert not (place / "target").exists()
    assert os.listdir(place / "beside") == []
    assert set(os.listdir(place)) <= {"beside", "target"}
    for path in (place / "target").rglob("*"):
        assert (os.path.realpath(path) + "/").startswith(f"{place}/target/")
        assert path.is_symlink() or not path.stat().st_mode & 0o7000
