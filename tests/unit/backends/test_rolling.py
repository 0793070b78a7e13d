"""A log by offset agrees with the whole stream, as far back as it reaches."""

from hypothesis import given
from hypothesis import strategies as st

from toolfleet.backends.runner.rolling import Rolling

KEEP = 40


@given(st.lists(st.binary(max_size=120), max_size=30), st.integers(-10, 900), st.integers(0, 200))
def test_what_is_read_is_what_was_fed_at_that_place(pieces: list[bytes], offset: int, limit: int) -> None:
    log, everything = Rolling(KEEP), b""
    for piece in pieces:
        log.feed(piece)
        everything += piece
        first, data = log.read(offset, limit)
        assert data == everything[first : first + limit]
        assert first == min(max(offset, log.start), log.end)
    assert (log.start, log.end) == (max(0, len(everything) - KEEP), len(everything))
    assert log.read(log.start, KEEP)[1] == everything[log.start :]
    assert log.tail(7) == everything[-7:]


@given(st.lists(st.binary(max_size=9), max_size=200))
def test_memory_is_bounded_by_what_is_kept(pieces: list[bytes]) -> None:
    log = Rolling(KEEP)
    for piece in pieces:
        log.feed(piece)
        assert len(log._bytes) <= KEEP + KEEP // 4
