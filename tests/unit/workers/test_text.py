"""From bytes to the text of a result: always short enough, always text, and honest about what is missing."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toolfleet.backends.base import Outcome
from toolfleet.config.contract import OUTPUT_LIMIT
from toolfleet.workers.text import decode_streams, fit_output

NOTICE = "[OUTPUT TRUNCATED - "


def outcome(stdout: bytes, head: int | None = None, dropped: int = 0, stderr: bytes = b"") -> Outcome:
    """What a runner tells of a command that printed ``stdout``, with a gap of ``dropped`` bytes after ``head``."""
    return Outcome(
        exit_code=0,
        timed_out=False,
        cancelled=False,
        stdout=stdout,
        stderr=stderr,
        stdout_head=len(stdout) if head is None else head,
        stderr_head=len(stderr),
        stdout_dropped=dropped,
        stderr_dropped=0,
        ran=0.0,
    )


def test_short_output_is_left_as_it_is() -> None:
    stdout, stderr = decode_streams(outcome("grüße\n".encode(), stderr=b"warning\n"))
    assert (stdout.text, stdout.dropped) == ("grüße\n", 0)
    assert (stderr.text, stderr.dropped) == ("warning\n", 0)


def test_output_of_exactly_the_limit_is_not_cut() -> None:
    stdout, _ = decode_streams(outcome(b"x" * OUTPUT_LIMIT))
    assert (len(stdout.text), stdout.dropped) == (OUTPUT_LIMIT, 0)
    assert fit_output("x" * OUTPUT_LIMIT) == ("x" * OUTPUT_LIMIT, False)


def test_one_character_more_is_cut_with_a_notice() -> None:
    stdout, _ = decode_streams(outcome(b"x" * (OUTPUT_LIMIT + 1)))
    assert len(stdout.text) <= OUTPUT_LIMIT
    assert NOTICE in stdout.text
    assert stdout.dropped > 0
    text, cut = fit_output("x" * (OUTPUT_LIMIT + 1))
    assert cut
    assert len(text) <= OUTPUT_LIMIT


def test_head_and_tail_are_kept_and_the_middle_goes() -> None:
    """The verdict of a test run stands at the end, so the end gets the larger part."""
    stdout, _ = decode_streams(outcome(b"BEGIN" + b"." * 200_000 + b"END"))
    assert stdout.text.startswith("BEGIN.")
    assert stdout.text.endswith(".END")
    head, tail = stdout.text.split("\n" + NOTICE)
    assert 0.3 < len(head) / len(tail) < 0.8


def test_the_notice_counts_the_bytes_that_are_missing() -> None:
    stdout, _ = decode_streams(outcome(b"x" * 300_000))
    kept = stdout.text.count("x")
    assert stdout.dropped == 300_000 - kept
    assert f"{NOTICE}{stdout.dropped} bytes omitted out of 300000 total]" in stdout.text


def test_multibyte_characters_are_counted_in_bytes_and_cut_by_characters() -> None:
    stdout, _ = decode_streams(outcome("é".encode() * 100_000))
    kept = stdout.text.count("é")
    assert len(stdout.text) <= OUTPUT_LIMIT
    assert "\ufffd" not in stdout.text, "no character is cut in half"
    assert stdout.dropped == 200_000 - 2 * kept


def test_a_gap_left_by_the_runner_is_marked_where_it_is() -> None:
    stdout, _ = decode_streams(outcome(b"headtail", head=4, dropped=1_000_000))
    assert stdout.text == "head\n[OUTPUT TRUNCATED - 1000000 bytes omitted out of 1000008 total]\ntail"
    assert stdout.dropped == 1_000_000


@pytest.mark.parametrize(("head", "text"), [(0, "\n{}tail"), (4, "tail\n{}")])
def test_a_gap_at_either_end(head: int, text: str) -> None:
    stdout, _ = decode_streams(outcome(b"tail", head=head, dropped=7))
    assert stdout.text == text.format("[OUTPUT TRUNCATED - 7 bytes omitted out of 11 total]\n")


def test_a_character_cut_in_half_by_the_gap_becomes_a_replacement() -> None:
    data = "é".encode()
    stdout, _ = decode_streams(outcome(b"a" + data[:1] + data[1:] + b"b", head=2, dropped=5))
    assert stdout.text.count("\ufffd") == 2
    assert stdout.text.startswith("a\ufffd\n")


def test_invalid_utf8_becomes_replacement_characters() -> None:
    stdout, _ = decode_streams(outcome(b"a\xff\xfe\x80b\xed\xa0\x80"))
    assert stdout.text.startswith("a\ufffd\ufffd\ufffdb")
    stdout.text.encode("utf-8")


def test_nul_and_control_characters_are_kept() -> None:
    """They are the command's own output; JSON can carry them."""
    stdout, _ = decode_streams(outcome(b"a\x00b\x1b[31m\r\n"))
    assert (stdout.text, stdout.dropped) == ("a\x00b\x1b[31m\r\n", 0)


def test_a_binary_output_with_a_gap_is_still_marked_as_cut() -> None:
    """Replacement characters are longer than the bytes they stand for; that must not hide what is missing."""
    stdout, _ = decode_streams(outcome(b"\xff" * 100_000, head=40_000, dropped=10))
    assert stdout.dropped >= 10


chunks = st.binary(max_size=40) | st.sampled_from(["é".encode(), "\U0001f600".encode(), b"\xff", b"\x00", b"x"])


@given(chunks, st.integers(0, 120_000), st.floats(0, 1), st.integers(0, 10**14))
@example(b"\xff", 100_000, 0.4, 10**14)
@example("\U0001f600".encode(), 60_000, 0.999, 1)
def test_never_longer_than_the_limit_notices_included(chunk: bytes, times: int, share: float, dropped: int) -> None:
    data = (chunk * times)[:150_000]
    stdout, _ = decode_streams(outcome(data, head=int(len(data) * share), dropped=dropped))
    assert len(stdout.text) <= OUTPUT_LIMIT
    assert (NOTICE in stdout.text) or not dropped
    stdout.text.encode("utf-8")


@given(st.text(max_size=5), st.integers(0, 60_000))
def test_what_is_put_together_of_cut_streams_fits_as_well(piece: str, times: int) -> None:
    text, cut = fit_output(piece * times)
    assert len(text) <= OUTPUT_LIMIT
    assert cut is (len(piece) * times > OUTPUT_LIMIT)
    assert cut or text == piece * times
