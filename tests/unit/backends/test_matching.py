"""Where a carelessly quoted text stands: exactly first, then with blanks that do not count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.backends.runner.files import matching

_TEXT = "def f():\n    if x:\n        return 1\n    return 2\n"


def replaced(text: str, old: str, new: str) -> tuple[str, str]:
    """``text`` with every place replaced, and the reading that found them."""
    found = matching.find(text, old, new)
    for span in reversed(found.spans):
        text = text[: span.start] + span.text + text[span.end :]
    return text, found.reading


@pytest.mark.parametrize(
    ("old", "new", "result", "reading"),
    [
        ("return 1", "return 3", _TEXT.replace("1", "3"), "exact"),
        ("    if x:  \n        return 1\n", "    pass\n", "def f():\n    pass\n    return 2\n", "trailing"),
        ("if x:\n    return 1", "if y:\n    return 1", _TEXT.replace("x", "y"), "indentation"),
        ("            if x:\n                return 1\n", "", "def f():\n    return 2\n", "indentation"),
        ("if  x:\n\treturn   1", "pass", "def f():\n    pass\n    return 2\n", "blanks"),
        ("if y:", "pass", _TEXT, "none"),
        ("\n\n\n", "x", _TEXT, "none"),
    ],
)
def test_the_strictest_reading_that_finds_anything_decides(old: str, new: str, result: str, reading: str) -> None:
    assert replaced(_TEXT, old, new) == (result, reading)


def test_new_lines_get_the_indentation_of_the_place() -> None:
    text, _ = replaced("\t\ta = 1\n\t\tb = 2\n", "a = 1\nb = 2\n", "if c:\n    a = 1\n\nb = 2\n")
    assert text == "\t\tif c:\n\t\t    a = 1\n\n\t\tb = 2\n"


def test_typographic_signs_are_read_as_plain_ones() -> None:
    assert replaced("say(\u201chi\u201d) \u2013 now\n", 'say("hi") - now', "x") == ("x\n", "blanks")


def test_the_last_line_may_lack_its_newline() -> None:
    assert replaced("a\n  b", "b \n", "c\n") == ("a\n  c\n", "indentation")
    assert replaced("a\nb", "b\n", "") == ("a\n", "trailing")


@pytest.mark.parametrize("seam", ["", "b"])
def test_a_repetitive_file_takes_linear_time(seam: str) -> None:
    """Quadratic, it would take longer than the suite may."""
    text = "a \n" * 300_000
    assert not matching.find(text, "a\n" * 100_000 + seam + "c", "x").spans


@given(st.lists(st.text("ab \n", max_size=6), max_size=12), st.data())
def test_what_stands_there_is_found_there(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    start = data.draw(st.integers(0, len(text)))
    old = text[start : data.draw(st.integers(start, len(text)))]
    if old:
        found = matching.find(text, old, "x")
        assert found.reading == "exact"
        assert all(text[span.start : span.end] == old for span in found.spans)
        assert replaced(text, old, "x")[0] == text.replace(old, "x")


@given(st.text("ab \t\r\n", max_size=30), st.text("ab \t\r\n", min_size=1, max_size=8), st.text("xy \n", max_size=6))
def test_places_are_in_order_and_do_not_overlap(text: str, old: str, new: str) -> None:
    at = 0
    for span in matching.find(text, old, new).spans:
        assert at <= span.start <= span.end <= len(text)
        at = span.end


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=3), st.integers(0, 12))
def test_lines_are_sought_as_by_comparing_them_one_by_one(lines: list[str], quoted: list[str], begin: int) -> None:
    expected, at = [], begin
    while quoted and at + len(quoted) <= len(lines):
        if lines[at : at + len(quoted)] == quoted:
            expected.append(at)
            at += len(quoted)
        else:
            at += 1
    assert matching.seek(lines, quoted, begin) == expected
