"""The wire format."""

import itertools
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.backends.runner.frames import MAX_BODY, MAX_HEADER, Decoder, FrameError, answer, encode

HEADERS = st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text()))


@given(st.lists(st.tuples(HEADERS, st.binary())), st.integers(1, 50))
def test_frames_survive_any_way_of_cutting_the_stream(frames: list[tuple[dict[str, object], bytes]], step: int) -> None:
    """Whatever they hold and however the bytes arrive."""
    stream = b"".join(encode(header, body) for header, body in frames)
    decoder = Decoder()
    pieces = (stream[start : start + step] for start in range(0, len(stream), step))
    assert list(itertools.chain.from_iterable(decoder.feed(piece) for piece in pieces)) == frames


def test_text_that_is_not_unicode_survives() -> None:
    """Lone surrogates stand for the bytes of odd file names."""
    header = {"path": b"\xff\xfe".decode("utf-8", "surrogateescape")}
    assert list(Decoder().feed(encode(header))) == [(header, b"")]


def test_a_frame_that_is_too_large_is_not_made() -> None:
    """The other side would hang up."""
    with pytest.raises(FrameError):
        encode({"x": "x" * MAX_HEADER})
    with pytest.raises(FrameError):
        encode({}, b"x" * (MAX_BODY + 1))


@pytest.mark.parametrize("size", [0, 1, MAX_BODY, MAX_BODY + 1, 3 * MAX_BODY])
def test_long_content_travels_in_parts(size: int) -> None:
    """All but the last are marked, and together they are the content."""
    body = bytes(size)
    frames = [next(Decoder().feed(part)) for part in answer(7, '{"end": 1}', body)]
    assert b"".join(part for _, part in frames) == body
    assert [header for header, _ in frames[:-1]] == [{"rid": 7, "part": True}] * (len(frames) - 1)
    assert frames[-1][0] == {"rid": 7, "outcome": {"end": 1}}


@pytest.mark.parametrize("noise", [b"GET / HT", b"\0\0\0\2\0\0\0\0[]", b"\0\0\0\1\0\0\0\0{", b"\xff" * 8])
def test_noise_is_an_error(noise: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(FrameError):
        list(Decoder().feed(noise))


#: Bytes that get past the prefix of a frame, so that what follows is looked at as well.
JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda values: st.lists(values) | st.dictionaries(st.text(), values)
)
PLAUSIBLE = st.builds(
    lambda header, body, longer: struct.pack("!II", len(header) + longer, len(body)) + header + body,
    st.binary() | st.text('{}[]":,0e+-.\\ truefalsn').map(str.encode) | JSON.map(json.dumps).map(str.encode),
    st.binary(),
    st.integers(0, 2),
)


@given(st.lists(st.binary() | PLAUSIBLE), st.integers(1, 20))
def test_any_bytes_are_frames_or_an_error(pieces: list[bytes], step: int) -> None:
    """And nothing else is raised, however they arrive."""
    stream, decoder = b"".join(pieces), Decoder()
    try:
        for start in range(0, len(stream), step):
            for header, body in decoder.feed(stream[start : start + step]):
                assert isinstance(header, dict)
                assert isinstance(body, bytes)
    except FrameError:
        return


@given(st.lists(st.tuples(HEADERS, st.binary()), min_size=1), st.data())
def test_a_changed_byte_spoils_no_frame_before_it(
    frames: list[tuple[dict[str, object], bytes]], data: st.DataObject
) -> None:
    """Those that had arrived whole stay as they were sent."""
    encoded = [encode(header, body) for header, body in frames]
    spoilt = data.draw(st.integers(0, len(encoded) - 1))
    piece = bytearray(encoded[spoilt])
    piece[data.draw(st.integers(0, len(piece) - 1))] ^= data.draw(st.integers(1, 255))
    decoder = Decoder()
    assert [frame for piece in encoded[:spoilt] for frame in decoder.feed(piece)] == frames[:spoilt]
    try:
        assert all(
            isinstance(header, dict) for header, _ in decoder.feed(bytes(piece) + b"".join(encoded[spoilt + 1 :]))
        )
    except FrameError:
        return
