"""Changes of text files: bytes that nobody asked to change stay, and nothing is half done."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from toolfleet.backends.runner.files import edit


def change(path: Path, old: str, new: str, *, everywhere: bool = False) -> dict[str, Any]:
    """Replace in a file."""
    return dict(edit.replace(os.fsencode(path), old, new, everywhere=everywhere))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a\nb\n", b"a\nc\nd\n"),
        (b"\xef\xbb\xbfa\r\nb\r\n", b"\xef\xbb\xbfa\r\nc\r\nd\r\n"),
        (b"a\r\nb\nx\r\n", b"a\r\nc\nd\nx\r\n"),
        (b"\xff\nb", b"\xff\nc\nd"),
        (b"\x0ca\x85\nb\n", b"\x0ca\x85\nc\nd\n"),
    ],
)
def test_ends_of_lines_marks_and_odd_bytes_are_kept(tmp_path: Path, before: bytes, after: bytes) -> None:
    """N9: CRLF and BOM preserved."""
    file = tmp_path / "f"
    file.write_bytes(before)
    assert "error" not in change(file, "b", "c\nd")
    assert file.read_bytes() == after


def test_one_place_is_replaced_and_several_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("x\ny\nx\n")
    file.chmod(0o751)
    answer = change(file, "x", "z")
    assert "stands 2 times" in answer["error"]
    assert "at lines 1, 3;" in answer["error"]
    assert file.read_text() == "x\ny\nx\n"
    answer = change(file, "x", "z", everywhere=True)
    assert answer["files_modified"] == [str(file)]
    assert "-x\n+z\n y\n" in answer["diff"]
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("z\ny\nz\n", 0o751)
    assert os.listdir(tmp_path) == ["f"]


def test_what_does_not_stand_there_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("new\n")
    assert "but new_string does: was it replaced before?" in change(file, "old", "new")["error"]
    assert "read the file and quote it" in change(file, "old", "other")["error"]
    assert "old_string is empty" in change(file, "", "x")["error"]
    file.write_bytes(b"a\0b")
    assert "not a text file" in change(file, "a", "b")["error"]
    with pytest.raises(FileNotFoundError):
        change(tmp_path / "none", "a", "b")


def test_the_same_again_changes_nothing_and_says_so(tmp_path: Path) -> None:
    """N9: a note on an idempotent patch."""
    file = tmp_path / "f"
    file.write_text("a\n")
    inode = file.stat().st_ino
    answer = change(file, "a", "a")
    assert (answer["no_change"], answer["diff"], answer["files_modified"]) == (True, "", [])
    assert file.stat().st_ino == inode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    (tmp_path / "l").symlink_to("f")
    change(tmp_path / "l", "a", "b")
    assert (tmp_path / "l").is_symlink()
    assert (tmp_path / "f").read_text() == "b\n"


@pytest.mark.parametrize("breaks_at", range(1, 5))
def test_what_breaks_in_the_middle_takes_everything_back(
    tmp_path: Path, breaks_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that fails, at each place in turn: an error of the disk cannot be had in another way."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(f"{name}\n")
    rename, calls = os.rename, 0

    def fails(source: bytes, target: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == breaks_at:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    text = (
        "*** Update File: a\n-a\n+1\n*** Add File: sub/new\n+x\n*** Delete File: b\n*** Update File: c\n-c\n+3\n"
        "*** End Patch\n"
    )
    with pytest.raises(OSError, match="Input/output"):
        edit.patch(os.fsencode(tmp_path), text)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "a\n", "b": "b\n", "c": "c\n"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("*** Add File: a\n+x", "exists already"),
        ("*** Move File: a -> b", "exists already"),
        ("*** Delete File: none", "No such file"),
        ("*** Update File: a\n-a\n+b\n*** Delete File: ./a", "twice"),
        ("*** Add File: a\0b\n+x", "NUL"),
    ],
)
def test_changes_that_do_not_fit_the_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{name}\n")
    error = edit.patch(os.fsencode(tmp_path), text)["error"]
    assert error.startswith("Nothing was changed: ")
    assert words in error
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
