"""A unified diff whose cost is bounded, whatever the two texts are."""

import difflib
from collections.abc import Iterator

#: Lines of context around a change.
CONTEXT = 3
#: Characters of a diff that are shown.
SHOWN = 20_000
#: Lines between the first and the last difference beyond which all of them are shown as changed.
COMPARED = 4000


def unified(old: str, new: str, before: str, after: str) -> str:
    """What makes ``new`` of ``old``, with the names ``before`` and ``after`` at its head; empty when nothing does.

    Cut after `SHOWN` characters, and said so.
    """
    if old == new:
        return ""
    theirs, ours = _lines(old), _lines(new)
    head = _common(theirs, ours)
    tail = _common(theirs[head:][::-1], ours[head:][::-1])
    hunks = _hunks(theirs, ours, head, tail)
    text = "".join((f"--- {before}\n", f"+++ {after}\n", *hunks))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}\n[diff cut: {len(text) - SHOWN} characters omitted]\n"


def _hunks(theirs: list[str], ours: list[str], head: int, tail: int) -> Iterator[str]:
    """The hunks of two texts whose first ``head`` and last ``tail`` lines are the same."""
    old, new = theirs[head : len(theirs) - tail], ours[head : len(ours) - tail]
    if len(old) + len(new) > COMPARED:
        codes = [("replace", 0, len(old), 0, len(new))]
    else:
        codes = list(difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes())
    shifted = [(tag, a + head, b + head, c + head, d + head) for tag, a, b, c, d in codes]
    around = [
        ("equal", 0, head, 0, head),
        *shifted,
        ("equal", len(theirs) - tail, len(theirs), len(ours) - tail, len(ours)),
    ]
    for group in _grouped([code for code in around if code[0] != "equal" or code[1] < code[2]]):
        first, last = group[0], group[-1]
        yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n"
        for tag, a, b, c, d in group:
            if tag == "equal":
                yield from (_shown(" ", line) for line in theirs[a:b])
            else:
                yield from (_shown("-", line) for line in theirs[a:b])
                yield from (_shown("+", line) for line in ours[c:d])


_Code = tuple[str, int, int, int, int]


def _grouped(codes: list[_Code]) -> Iterator[list[_Code]]:
    """The codes cut into hunks, with at most `CONTEXT` equal lines at either end of each."""
    group: list[_Code] = []
    for tag, a, b, c, d in codes:
        if tag != "equal":
            group.append((tag, a, b, c, d))
        elif not group:
            skip = max(0, b - a - CONTEXT)
            group = [(tag, a + skip, b, c + skip, d)]
        elif b - a > 2 * CONTEXT:
            yield [*group, (tag, a, a + CONTEXT, c, c + CONTEXT)]
            group = [(tag, b - CONTEXT, b, d - CONTEXT, d)]
        else:
            group.append((tag, a, b, c, d))
    if any(code[0] != "equal" for code in group):
        tag, a, b, c, d = group[-1]
        keep = min(b - a, CONTEXT) if tag == "equal" else b - a
        yield [*group[:-1], (tag, a, a + keep, c, c + keep if tag == "equal" else d)]


def _lines(text: str) -> list[str]:
    # Not splitlines: a form feed ends no line.
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop().removesuffix("\n")
    return [*lines, last] if last else lines


def _common(one: list[str], other: list[str]) -> int:
    """How many lines are the same at the beginning."""
    return next(
        (n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


def _shown(sign: str, line: str) -> str:
    return f"{sign}{line}" if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"


def _range(start: int, end: int) -> str:
    # An empty range is named by the line before it.
    return f"{start + 1 if end > start else start},{end - start}"
