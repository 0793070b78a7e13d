"""The seal on a channel that passes through other hands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.backends.runner.frames import FrameError
from toolfleet.backends.runner.seal import Seal, SealBroken, new_secret

PAYLOADS = st.lists(st.binary(), min_size=1)


def pair(theirs: bytes | None = None) -> tuple[Seal, Seal]:
    """Both ends, after their nonces have been exchanged."""
    secret = new_secret()
    host, runner = Seal(secret, "host"), Seal(theirs or secret, "runner")
    assert host.open(runner.nonce) == b""
    assert runner.open(host.nonce) == b""
    return host, runner


@given(PAYLOADS, st.integers(1, 50))
def test_sealed_bytes_survive_any_way_of_cutting_the_stream(payloads: list[bytes], step: int) -> None:
    """In both directions, each with its own count."""
    host, runner = pair()
    for one, other in ((host, runner), (runner, host)):
        stream = b"".join(one.close(payload) for payload in payloads)
        pieces = [stream[start : start + step] for start in range(0, len(stream), step)]
        assert b"".join(other.open(piece) for piece in pieces) == b"".join(payloads)
        assert other.proved


def test_nothing_can_be_sent_before_the_nonces() -> None:
    """There is no key yet."""
    seal = Seal(new_secret(), "host")
    assert not seal.ready
    with pytest.raises(SealBroken):
        seal.close(b"x")


def test_another_secret_proves_nothing() -> None:
    """In neither direction."""
    host, runner = pair(new_secret())
    with pytest.raises(SealBroken):
        runner.open(host.close(b"x"))
    with pytest.raises(SealBroken):
        host.open(runner.close(b"x"))
    assert not host.proved
    assert not runner.proved


@given(st.binary(min_size=1), st.integers(min_value=0), st.integers(1, 255))
def test_a_changed_record_is_refused_or_incomplete(payload: bytes, place: int, change: int) -> None:
    """Whichever of its bytes: nothing of it is handed on."""
    host, runner = pair()
    record = bytearray(host.close(payload))
    record[place % len(record)] ^= change
    try:
        assert runner.open(bytes(record)) == b""
    except FrameError:
        return
    assert not runner.proved


def test_records_are_good_once_in_their_order_and_direction() -> None:
    """No repetition, no gap, no reflection, no record of another connection."""
    host, runner = pair()
    first, second = host.close(b"1"), host.close(b"2")
    for wrong in ([second], [first, first], [first, second, first]):
        host, runner = pair()
        records = [host.close(b"1"), host.close(b"2")]
        stream = b"".join(records[0] if record is first else records[1] for record in wrong)
        with pytest.raises(SealBroken):
            runner.open(stream)
    host, runner = pair()
    with pytest.raises(SealBroken):
        host.open(host.close(b"x"))
    with pytest.raises(SealBroken):
        runner.open(first)


def test_a_record_that_is_too_long_is_refused_at_once() -> None:
    """Before its bytes are waited for."""
    host, runner = pair()
    with pytest.raises(SealBroken):
        runner.open(b"\xff\xff\xff\xff")
    assert host.ready
