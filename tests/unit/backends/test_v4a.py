"""Patches in the V4A format: read, placed by their context, and refused in words when they do not fit."""

import contextlib
import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.backends.runner.files import v4a
from toolfleet.backends.runner.files.v4a import Malformed


def apply(patch: str, text: str) -> str:
    """``text`` after the first change of ``patch``."""
    for span in reversed(v4a.applied(v4a.parse(patch)[0], text)):
        text = text[: span.start] + span.text + text[span.end :]
    return text


def update(*lines: str) -> str:
    """A patch that updates one file."""
    return "\n".join(("*** Begin Patch", "*** Update File: f", *lines, "*** End Patch"))


def test_every_kind_of_change_is_read() -> None:
    changes = v4a.parse(
        "Here it is:\n*** Begin Patch\n*** Update File: a b.py\n*** Move to: c.py\n@@ def f():\n-x\n+y\n"
        "*** Add File: new\n+1\n+\n+2\n*** Delete File: old\n*** Move File: p -> q\n*** End Patch\nignored"
    )
    assert [(c.kind, c.path, c.to) for c in changes] == [
        ("update", "a b.py", "c.py"),
        ("add", "new", None),
        ("delete", "old", None),
        ("move", "p", "q"),
    ]
    assert changes[1].lines == ["1", "", "2"]
    assert (changes[0].hunks[0].anchors, changes[0].hunks[0].before) == (["def f():"], ["x"])


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ("", "names no file"),
        ("*** Begin Patch\n*** End Patch", "names no file"),
        ("--- a\n+++ b", "line 1: expected"),
        ("*** Update File: f\n@@\n-a\nb", "line 4: a line of a change begins with"),
        ("*** Add File: f\nx", "begins with '+'"),
        ("*** Delete File: f\n-x", "nothing may follow"),
        ("*** Move File: f", "OLD -> NEW"),
        ("*** Update File:\n-x", "a path is missing"),
        ("*** Update File: f\n@@\n", "changes nothing"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(patch: str, words: str) -> None:
    with pytest.raises(Malformed, match=words.replace("+", r"\+").replace(">", ">")):
        v4a.parse(patch)


_ONE = "def f( x ):   \n    return 1\n"
_TWO = "class A:\n    def f(self):\n        return 1\n\nclass B:\n    def f(self):\n        return 1\n"


@pytest.mark.parametrize(
    ("lines", "text", "result"),
    [
        (("@@ class B:", "@@     def f(self):", "-        return 1", "+        return 2"), _TWO, _TWO[:-2] + "2\n"),
        (("@@ class B:", "     def f(self):", "-        return 1", "+        return 2"), _TWO, _TWO[:-2] + "2\n"),
        (("@@ class B:", " class B:", "-    def f(self):", "+    def g(self):"), _TWO, "g(".join(_TWO.rsplit("f(", 1))),
        (("-a", "+b"), "a\na\n", "b\na\n"),
        (("@@", "-a", "+b", "*** End of File"), "a\na\n", "a\nb\n"),
        (("@@", "-a", "+b", "@@", "-a", "+c"), "a\na\n", "b\nc\n"),
        (("@@", "+end",), "a\n", "a\nend\n"),
        (("@@", "+end",), "a", "a\nend\n"),
        (("@@ a", "+after a",), "a\nb\n", "a\nafter a\nb\n"),
        (("@@", " a", "-b"), "a\nb\n", "a\n"),
        (("@@", "-a", "-b"), "a\nb", ""),
        (("@@", "-b"), "a\nb", "a"),
        (("@@", " a", "", "-b", "+c"), "a\n\nb\n", "a\n\nc\n"),
        (("@@", " def f( x ):", "-  return 1", "+  return 2"), _ONE, _ONE.replace("1", "2")),
    ],
)  # fmt: skip
def test_a_change_is_placed_by_what_stands_there(lines: tuple[str, ...], text: str, result: str) -> None:
    assert apply(update(*lines), text) == result


@pytest.mark.parametrize(
    ("lines", "words"),
    [(("@@ nowhere", "-a", "+b"), "found no line 'nowhere'"), (("@@", "-z", "+b"), "found no place for a change")],
)
def test_what_stands_nowhere_is_refused_in_words(lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(Malformed, match=words):
        apply(update(*lines), "a\n")


_LINES = st.lists(st.sampled_from(["a", "b", "  c", "d e", ""]), max_size=14)


@given(_LINES, _LINES)
def test_a_patch_made_of_a_difference_makes_it(old: list[str], new: list[str]) -> None:
    """With all lines as context there is only one place."""
    body = [line[0] + line[2:] for line in difflib.ndiff(old, new) if line[0] != "?"]
    if old == new or not any(line.strip("+- ") for line in body):
        return
    text, wanted = "".join(f"{line}\n" for line in old), "".join(f"{line}\n" for line in new)
    try:
        changes = v4a.parse(update("@@", *body))
    except Malformed:
        assert not any(line[0] in "+-" and line[1:] for line in body)
        return
    if changes[0].hunks[0].before:
        assert apply(update("@@", *body), text) == wanted


@given(st.text(alphabet="*@+- abU\n", max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    for patch in (text, "*** Begin Patch\n*** Update File: f\n" + text, "*** Add File: f\n" + text):
        with contextlib.suppress(Malformed):
            for change in v4a.parse(patch):
                v4a.applied(change, "a\nb\n\na b\n")
