"""A seal on the channel, for transports that pass through hands of the sandbox: a relay, a socket with a path.

Host and runner share a secret that commands never see. Each side sends a nonce at once; from then on bytes travel in
records, ``u32 length, 16 bytes of tag, payload``, whose tag is keyed by the secret, both nonces, the direction and the
number of the record. So a first valid record proves who speaks, nothing can be altered, repeated, dropped or sent
back, and the secret itself never travels. What is said can be read: it concerns the sandbox alone. No I/O happens here.
"""

import os
import struct
from _blake2 import blake2b
from _operator import _compare_digest as compare_digest
from typing import Literal

from toolfleet.backends.runner.frames import MAX_BODY, MAX_HEADER, FrameError

Side = Literal["host", "runner"]

#: Bytes of a secret, see `new_secret`.
SECRET = 32

_NONCE = 16
_TAG = 16
_PREFIX = struct.Struct("!I")
_COUNTER = struct.Struct("!Q")
#: A record holds one frame, see `frames`.
_MAX_RECORD = 8 + MAX_HEADER + MAX_BODY


class SealBroken(FrameError):
    """The peer does not know the secret, or somebody has touched its records; the connection is of no more use."""


def new_secret() -> bytes:
    """A secret for one sandbox."""
    return os.urandom(SECRET)


class Seal:
    """One end of a sealed stream."""

    def __init__(self, secret: bytes, side: Side) -> None:
        self.nonce = os.urandom(_NONCE)
        """The first bytes to send, as they are."""
        self.proved = False
        """The peer has shown that it knows the secret."""
        self._secret = secret
        self._side = side
        self._keys: tuple[bytes, bytes] | None = None
        self._sent = 0
        self._received = 0
        self._buffer = bytearray()

    @property
    def ready(self) -> bool:
        """The peer's nonce has come, so that records can be made."""
        return self._keys is not None

    def close(self, payload: bytes) -> bytes:
        """``payload`` as a record."""
        if self._keys is None:
            raise SealBroken("nothing can be sent before the peer's nonce has come")
        tag = _tag(self._keys[0], self._sent, payload)
        self._sent += 1
        return b"".join((_PREFIX.pack(len(payload)), tag, payload))

    def open(self, data: bytes) -> bytes:
        """Take the next bytes of the peer and return what is proved of them; empty while a record is incomplete.

        Raises:
            SealBroken: they are not the peer's.
        """
        self._buffer += data
        if self._keys is None:
            if len(self._buffer) < _NONCE:
                return b""
            self._agree(bytes(self._buffer[:_NONCE]))
            del self._buffer[:_NONCE]
        payloads = []
        while (payload := self._next()) is not None:
            payloads.append(payload)
        return b"".join(payloads)

    def _agree(self, theirs: bytes) -> None:
        nonces = self.nonce + theirs if self._side == "host" else theirs + self.nonce
        to_runner, to_host = (
            blake2b(nonces, key=self._secret, person=person).digest() for person in (b"to the runner", b"to the host")
        )
        self._keys = (to_runner, to_host) if self._side == "host" else (to_host, to_runner)

    def _next(self) -> bytes | None:
        if self._keys is None or len(self._buffer) < _PREFIX.size:
            return None
        (length,) = _PREFIX.unpack_from(self._buffer)
        if length > _MAX_RECORD:
            raise SealBroken(f"a record announces {length} bytes")
        start = _PREFIX.size + _TAG
        if len(self._buffer) < start + length:
            return None
        tag, payload = bytes(self._buffer[_PREFIX.size : start]), bytes(self._buffer[start : start + length])
        if not compare_digest(tag, _tag(self._keys[1], self._received, payload)):
            raise SealBroken("a record that the peer has not sent")
        del self._buffer[: start + length]
        self._received += 1
        self.proved = True
        return payload


def _tag(key: bytes, number: int, payload: bytes) -> bytes:
    mac = blake2b(_COUNTER.pack(number), key=key, digest_size=_TAG)
    mac.update(payload)
    return mac.digest()
