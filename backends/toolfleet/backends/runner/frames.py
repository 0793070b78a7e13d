"""The wire format between a host process and the runner, shared by both sides.

A frame is ``u32 header length, u32 body length`` (big endian), a header (a JSON object in ASCII) and raw bytes.
Nothing is escaped, so output that looks like a frame is only output. No I/O happens here.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any

#: Longest header that either side accepts, in bytes.
MAX_HEADER = 1024 * 1024
#: Longest body of one frame, in bytes; longer content travels as several frames.
MAX_BODY = 1024 * 1024
#: Raised whenever a frame changes its meaning; both sides refuse another one's version.
PROTOCOL = 1

_PREFIX = struct.Struct("!II")
_dump = json.JSONEncoder(separators=(",", ":")).encode
_scan = json.JSONDecoder().raw_decode

Header = dict[str, Any]


class FrameError(ValueError):
    """The bytes are not a frame of this protocol; the connection cannot be used any further."""


def encode(header: Header, body: bytes | memoryview = b"") -> bytes:
    """Return ``header`` and ``body`` as one frame.

    Raises:
        FrameError: one of them is longer than a frame may be.
    """
    return _frame(_dump(header).encode("ascii"), body)


def _frame(head: bytes, body: bytes | memoryview) -> bytes:
    if len(head) > MAX_HEADER:
        raise FrameError(f"a header of {len(head)} bytes; at most {MAX_HEADER} fit into a frame")
    if len(body) > MAX_BODY:
        raise FrameError(f"a body of {len(body)} bytes; at most {MAX_BODY} fit into a frame")
    return b"".join((_PREFIX.pack(len(head), len(body)), head, body))


def answer(rid: int, outcome: str, body: bytes) -> Iterable[bytes]:
    """Frames that carry ``outcome``, a JSON object in ASCII, and ``body`` in order; all but the last one are marked
    ``part``.

    Raises:
        FrameError: the outcome is longer than a frame may be.
    """
    head = f'{{"rid":{rid},"outcome":{outcome}}}'.encode("ascii")
    return (_frame(head, body),) if len(body) <= MAX_BODY else _parts(rid, head, body)


def _parts(rid: int, head: bytes, body: bytes) -> Iterator[bytes]:
    view = memoryview(body)
    while len(view) > MAX_BODY:
        yield encode({"rid": rid, "part": True}, view[:MAX_BODY])
        view = view[MAX_BODY:]
    yield _frame(head, view)


class Decoder:
    """Cuts a stream of bytes into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """Add ``data`` and yield the frames that are complete by now.

        Raises:
            FrameError: the stream is not made of frames.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _PREFIX.size:
                head, body = _PREFIX.unpack_from(buffer, start)
                if head > MAX_HEADER or body > MAX_BODY:
                    raise FrameError(f"a frame announces {head} + {body} bytes")
                middle = start + _PREFIX.size + head
                if len(buffer) < middle + body:
                    return
                header = _header(buffer[start + _PREFIX.size : middle])
                start = middle + body
                yield header, bytes(buffer[middle:start])
        finally:
            del buffer[:start]


def _header(encoded: bytearray) -> Header:
    try:
        text = encoded.decode("ascii")
        header, end = _scan(text)
    except (ValueError, RecursionError) as error:
        raise FrameError("a header that is not JSON") from error
    if end != len(text) or not isinstance(header, dict):
        raise FrameError("a header that is not a JSON object")
    return header
