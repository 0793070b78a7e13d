"""From the bytes that a command printed to the text of a result: decoded, and cut to length in the middle."""

from dataclasses import dataclass

from toolfleet.backends.base import Outcome
from toolfleet.config.contract import HEAD_SHARE, OUTPUT_LIMIT


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream as text, and how many of its bytes are missing."""

    text: str
    dropped: int


NOTHING = Stream("", 0)


def decode_streams(outcome: Outcome) -> tuple[Stream, Stream]:
    """Stdout and stderr as text, each at most `OUTPUT_LIMIT` characters; invalid UTF-8 becomes U+FFFD."""
    return (
        _decode(outcome.stdout, outcome.stdout_head, outcome.stdout_dropped),
        _decode(outcome.stderr, outcome.stderr_head, outcome.stderr_dropped),
    )


def fit_output(text: str) -> tuple[str, bool]:
    """``text`` in at most `OUTPUT_LIMIT` characters, and whether anything was cut."""
    if len(text) <= OUTPUT_LIMIT:
        return text, False
    head, tail = _shares()
    return f"{text[:head]}{_notice(len(text) - head - tail, len(text), 'chars')}{text[-tail:]}", True


def _decode(data: bytes, head: int, missing: int) -> Stream:
    if not missing:
        text = data.decode("utf-8", "replace")
        if len(text) <= OUTPUT_LIMIT:
            return Stream(text, 0)
        head = len(data) // 2
    keep_head, keep_tail = _shares()
    before, cut_before = _keep(data[:head], keep_head, from_end=False)
    after, cut_after = _keep(data[head:], keep_tail, from_end=True)
    dropped = missing + cut_before + cut_after
    return Stream(f"{before}{_notice(dropped, missing + len(data), 'bytes')}{after}", dropped)


def _keep(data: bytes, limit: int, *, from_end: bool) -> tuple[str, int]:
    """At most ``limit`` characters of ``data``, and how many bytes that leaves out.

    Counted on the bytes as they came: an invalid one grows to three in U+FFFD, and must not hide what was dropped.
    """
    text = data.decode("utf-8", "surrogateescape")
    kept = text[-limit:] if from_end else text[:limit]
    left_out = len(data) - len(kept.encode("utf-8", "surrogateescape"))
    return kept.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), left_out


def _shares() -> tuple[int, int]:
    room = OUTPUT_LIMIT - len(_notice(10**15, 10**15, "chars"))
    head = int(room * HEAD_SHARE)
    return head, room - head


def _notice(count: int, total: int, unit: str) -> str:
    return f"\n[OUTPUT TRUNCATED - {count} {unit} omitted out of {total} total]\n"
