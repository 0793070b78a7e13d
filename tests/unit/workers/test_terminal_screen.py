"""B11: keys by name, the screen that follows from what was printed, and recordings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.workers.tools.keys import encode
from toolfleet.workers.tools.screen import cast_events, cast_header, rows


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("Enter", "\r"),
        ("enter", "\r"),
        ("C-c", "\x03"),
        ("C-D", "\x04"),
        ("^Z", "\x1a"),
        ("C-[", "\x1b"),
        ("C-Space", "\0"),
        ("C-?", "\x7f"),
        ("M-x", "\x1bx"),
        ("M-Up", "\x1b\x1b[A"),
        ("PageUp", "\x1b[5~"),
        ("F12", "\x1b[24~"),
        ("ls -l", "ls -l"),
        ("C-cc", "C-cc"),
        ("é", "é"),
        ("", ""),
    ],
)
def test_a_key_is_sent_as_a_terminal_sends_it(key: str, sent: str) -> None:
    assert encode(key) == sent


def test_the_screen_shows_what_a_person_would_see() -> None:
    printed = b"first\r\nsecond\x1b[1;1HF\x1b[31mIRST\x1b[0m\x1b[3;5Hthird\xc3\xa9   \r\n"
    assert rows(printed, 20, 5) == ["FIRST", "second", "    third\xe9"]


def test_what_has_left_the_screen_is_shown_when_asked_for() -> None:
    printed = b"".join(b"line %d\r\n" % n for n in range(10))
    assert rows(printed, 20, 4) == ["line 7", "line 8", "line 9"]
    assert rows(printed, 20, 4, entire=True) == [f"line {n}" for n in range(10)]


#: Bytes, with those that terminals understand more often than chance would have it.
_PRINTED = st.lists(
    st.one_of(
        st.binary(max_size=5),
        st.sampled_from(
            [b"\x1b", b"\x1b[", b"\xc2\x9b", b"\r\n", b"\x1b]0;", b"\x1b(", b"\x1b#8", b"\xe5\xad\x97", b"\xcc\x81"]
        ),
        st.from_regex(rb"\x1b\[[?>!]?[0-9;]{0,12}[@A-Za-z`]", fullmatch=True),
    ),
    max_size=60,
).map(b"".join)


@pytest.mark.parametrize("entire", [False, True])
def test_half_of_a_wide_character_is_no_more_than_nothing(entire: bool) -> None:
    """Deleting its first cell leaves the second."""
    assert rows("中\r\x1b[P\x1b[3Cx".encode(), 20, 5, entire=entire) == ["  x"]


@given(_PRINTED)
def test_nothing_that_is_printed_breaks_the_screen(printed: bytes) -> None:
    for entire in (False, True):
        rows(printed, 20, 5, entire=entire)


def test_a_sequence_without_end_is_passed_over() -> None:
    assert rows(b"a\x1b[" + b"9" * 10_000 + b"mb", 20, 5)[0].startswith("a")


def test_a_recording_is_valid_line_by_line() -> None:
    header = json.loads(cast_header(80, 24))
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    lines = cast_events("aé\n".encode(), 100, [(90, 0.5), (102, 1.5), (104, 2.0)])
    assert [json.loads(line) for line in lines] == [[0.5, "o", "a"], [1.5, "o", "é\n"]]


@given(st.text(max_size=50), st.lists(st.integers(0, 60), max_size=10))
def test_a_recording_loses_no_character_wherever_it_is_cut(text: str, cuts: list[int]) -> None:
    printed = text.encode()
    moments = [(offset, float(number)) for number, offset in enumerate(sorted(cuts))]
    assert "".join(json.loads(line)[2] for line in cast_events(printed, 0, moments)) == text
