"""The wire format between a host process and the runner, shared by both sides.

A frame is ``u32 header length, u32 body length`` (big endian), a header (a JSON object in ASCII) and raw bytes.
Nothing is escaped, so output that looks like a frame is only output. No I/O happens here.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

#: Longest header that either side accepts, in bytes.
MAX_HEADER = 1024 * 1024
#: Longest body of one frame, in bytes; longer content travels as several frames.
MAX_BODY = 1024 * 1024
#: Raised whenever a frame changes its meaning; both sides refuse another one's version.
PROTOCOL = 1

_PREFIX = struct.Struct("!II")
_dump = json.JSONEncoder(separators=(",", ":")).encode
_load = json.JSONDecoder().decode

Header = dict[str, Any]


class FrameError(ValueError):
    """The bytes are not a frame of this protocol; the connection cannot be used any further."""


def encode(header: Header, body: bytes | memoryview = b"") -> bytes:
    """Return ``header`` and ``body`` as one frame.

    Raises:
        FrameError: one of them is longer than a frame may be.
    """
    head = _dump(header).encode("ascii")
    if len(head) > MAX_HEADER:
        raise FrameError(f"a header of {len(head)} bytes; at most {MAX_HEADER} fit into a frame")
    if len(body) > MAX_BODY:
        raise FrameError(f"a body of {len(body)} bytes; at most {MAX_BODY} fit into a frame")
    return b"".join((_PREFIX.pack(len(head), len(body)), head, body))


def encode_parts(header: Header, body: bytes) -> Iterator[bytes]:
    """Yield frames that carry ``body`` in order; all but the last one are marked ``part``."""
    if len(body) <= MAX_BODY:
        yield encode(header, body)
        return
    view = memoryview(body)
    while len(view) > MAX_BODY:
        yield encode({"rid": header["rid"], "part": True}, view[:MAX_BODY])
        view = view[MAX_BODY:]
    yield encode(header, view)


class Decoder:
    """Cuts a stream of bytes into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """Add ``data`` and yield the frames that are complete by now.

        Raises:
            FrameError: the stream is not made of frames.
        """
        self._buffer += data
        start = 0
        try:
            while (ends := self._ends(start)) is not None:
                yield self._frame(start, *ends)
                start = ends[1]
        finally:
            del self._buffer[:start]

    def _ends(self, start: int) -> tuple[int, int] | None:
        """Where the header and the body of the frame at ``start`` end, or None while it is incomplete."""
        if len(self._buffer) - start < _PREFIX.size:
            return None
        head, body = _PREFIX.unpack_from(self._buffer, start)
        if head > MAX_HEADER or body > MAX_BODY:
            raise FrameError(f"a frame announces {head} + {body} bytes")
        middle = start + _PREFIX.size + head
        return (middle, middle + body) if len(self._buffer) >= middle + body else None

    def _frame(self, start: int, middle: int, end: int) -> tuple[Header, bytes]:
        try:
            header = _load(self._buffer[start + _PREFIX.size : middle].decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise FrameError("a header that is not JSON") from error
        if not isinstance(header, dict):
            raise FrameError("a header that is not a JSON object")
        return header, bytes(self._buffer[middle:end])
