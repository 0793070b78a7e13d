"""From the bytes that a command printed to the text of a result: decoded, and cut to length in the middle."""

from dataclasses import dataclass

from toolfleet.backends.base import Outcome
from toolfleet.config.contract import HEAD_SHARE, OUTPUT_LIMIT


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream as text, and how many of its bytes are missing."""

    text: str
    dropped: int


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
    return f"{text[:head]}{_notice(len(text) - head - tail, 'characters')}{text[-tail:]}", True


def _decode(data: bytes, head: int, missing: int) -> Stream:
    if not missing:
        text = data.decode("utf-8", "replace")
        if len(text) <= OUTPUT_LIMIT:
            return Stream(text, 0)
        before, after = text, text
    else:
        before, after = data[:head].decode("utf-8", "replace"), data[head:].decode("utf-8", "replace")
    keep_head, keep_tail = _shares()
    before, after = before[:keep_head], after[-keep_tail:]
    total = len(data) + missing
    dropped = max(0, total - len(before.encode()) - len(after.encode()))
    return Stream(f"{before}{_notice(dropped, 'bytes')}{after}", dropped)


def _shares() -> tuple[int, int]:
    room = OUTPUT_LIMIT - len(_notice(10**15, "characters"))
    head = int(room * HEAD_SHARE)
    return head, room - head


def _notice(count: int, unit: str) -> str:
    return f"\n[OUTPUT TRUNCATED - {count} {unit} omitted]\n"
