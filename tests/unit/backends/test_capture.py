"""Head and tail of a stream."""

from hypothesis import given
from hypothesis import strategies as st

from toolfleet.backends.runner.capture import Capture


@given(st.lists(st.binary(max_size=40)), st.integers(0, 60))
def test_head_tail_and_gap_always_add_up(chunks: list[bytes], keep: int) -> None:
    """What is kept is a start and an end of what was fed; nothing is missing unless it must be."""
    capture = Capture(keep)
    for chunk in chunks:
        capture.feed(chunk)
    everything = b"".join(chunks)
    kept, head, dropped = capture.result()
    assert len(kept) + dropped == len(everything)
    assert everything.startswith(kept[:head])
    assert everything.endswith(kept[head:])
    assert dropped == max(0, len(everything) - keep)
    if dropped:
        assert head == keep * 2 // 5
    else:
        assert head == len(kept)


def test_memory_stays_bounded() -> None:
    """However much is fed, in pieces of whatever size."""
    capture = Capture(1000)
    for size in [1] * 10_000 + [5000] * 100:
        capture.feed(b"x" * size)
        assert len(capture._tail) <= 1200
