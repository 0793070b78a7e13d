"""Patches in the V4A format: several files, places told by their context instead of by line numbers.

::

    *** Begin Patch
    *** Update File: src/a.py
    *** Move to: src/b.py
    @@ def area(r):
         pi = 3
    -    return pi * r
    +    return pi * r * r
    *** Add File: notes.txt
    +one line
    *** Delete File: old.txt
    *** Move File: here.txt -> there.txt
    *** End Patch

Nothing here touches a file.
"""

from dataclasses import dataclass, field

from toolfleet.backends.runner.files import matching


class Malformed(ValueError):
    """The patch cannot be read, or does not fit the file; the message says where."""


@dataclass(slots=True)
class Hunk:
    """Consecutive lines of a file, and what they become."""

    anchors: list[str] = field(default_factory=list)
    """Lines that stand somewhere before it, one after another."""
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    at_end: bool = False
    """It ends where the file ends."""


@dataclass(slots=True)
class Change:
    """What becomes of one file: ``add`` takes ``lines``, ``update`` takes ``hunks``; ``to`` moves it."""

    kind: str
    path: str
    to: str | None = None
    lines: list[str] = field(default_factory=list)
    hunks: list[Hunk] = field(default_factory=list)


_BEGIN, _END, _EOF = "*** Begin Patch", "*** End Patch", "*** End of File"
_HEADS = {"*** Add File:": "add", "*** Update File:": "update", "*** Delete File:": "delete", "*** Move File:": "move"}
_MOVE_TO = "*** Move to:"


def parse(patch: str) -> list[Change]:
    """The changes of ``patch`` in their order; what stands outside its two marks is ignored.

    Raises:
        Malformed: it is no V4A patch.
    """
    lines = [line.removesuffix("\r") for line in patch.split("\n")]
    begin = next((number for number, line in enumerate(lines) if line.strip() == _BEGIN), -1)
    changes: list[Change] = []
    for number, line in enumerate(lines[begin + 1 :], begin + 2):
        if line.strip() == _END:
            break
        kind = next((head for head in _HEADS if line.startswith(head)), None)
        if kind is not None:
            changes.append(_begun(_HEADS[kind], line.removeprefix(kind).strip(), number))
        elif changes:
            _take(changes[-1], line, number)
        elif line.strip():
            raise Malformed(f"line {number}: expected '*** Update File: PATH' or the like, found {line[:80]!r}")
    if not changes:
        raise Malformed("the patch names no file; it needs '*** Update File: PATH', Add, Delete or Move")
    for change in changes:
        _complete(change)
    return changes


def _begun(kind: str, path: str, number: int) -> Change:
    to = None
    if kind == "move":
        path, arrow, to = (part.strip() for part in path.partition("->"))
        if not arrow or not to:
            raise Malformed(f"line {number}: write '*** Move File: OLD -> NEW'")
    if not path:
        raise Malformed(f"line {number}: a path is missing")
    return Change(kind, path, to)


def _take(change: Change, line: str, number: int) -> None:
    """Add a line of the patch to the change that it belongs to."""
    if change.kind == "add":
        if line.startswith("+"):
            change.lines.append(line[1:])
        elif line.strip():
            raise Malformed(f"line {number}: every line of an added file begins with '+', found {line[:80]!r}")
    elif change.kind == "update":
        _take_update(change, line, number)
    elif line.strip():
        raise Malformed(f"line {number}: nothing may follow '*** {change.kind.title()} File', found {line[:80]!r}")


def _take_update(change: Change, line: str, number: int) -> None:
    if line.startswith(_MOVE_TO) and not change.hunks:
        change.to = line.removeprefix(_MOVE_TO).strip() or None
        return
    if line.startswith("@@"):
        anchor = line[2:].removeprefix(" ").removesuffix("@@").rstrip()
        if not change.hunks or change.hunks[-1].before or change.hunks[-1].after:
            change.hunks.append(Hunk())
        # Numbers as in a unified diff say nothing: places are told by what stands there.
        if anchor and not anchor.lstrip().startswith("-"):
            change.hunks[-1].anchors.append(anchor)
        return
    if not change.hunks:
        if not line.strip():
            return
        change.hunks.append(Hunk())
    hunk = change.hunks[-1]
    if line.strip() == _EOF:
        hunk.at_end = True
        return
    sign, rest = line[:1], line[1:]
    if sign not in ("", " ", "+", "-"):
        raise Malformed(f"line {number}: a line of a change begins with ' ', '+' or '-', found {line[:80]!r}")
    if sign != "+":
        hunk.before.append(rest)
    if sign != "-":
        hunk.after.append(rest)


def _complete(change: Change) -> None:
    for hunk in change.hunks:
        # Empty lines between two changes belong to neither.
        while hunk.before and hunk.after and not hunk.before[-1] and not hunk.after[-1]:
            hunk.before.pop()
            hunk.after.pop()
    change.hunks = [hunk for hunk in change.hunks if hunk.before or hunk.after]
    if change.kind == "update" and not change.hunks and change.to is None:
        raise Malformed(f"{change.path}: the update changes nothing; write lines that begin with '-' or '+'")


def applied(change: Change, text: str) -> list[matching.Span]:
    """Where the hunks of ``change`` stand in ``text``, in order, and what is to stand there.

    Each is looked for behind the one before; where it stands more than once, the first place counts, as the format
    has it.

    Raises:
        Malformed: the text has no such lines.
    """
    lines = text.split("\n")
    ends = [0]
    for line in lines:
        ends.append(ends[-1] + len(line) + 1)
    readings = {name: [read(line) for line in lines] for name, read in matching.READINGS.items()}
    spans, begin = [], 0
    for hunk in change.hunks:
        place, after = _place(change.path, hunk, lines, readings, begin)
        begin = place + len(hunk.before)
        if hunk.before:
            if not hunk.after:
                spans.append(_removed(text, ends, place, begin))
                continue
            spans.append(matching.Span(ends[place], ends[begin] - 1, "\n".join(after)))
        else:
            at = min(ends[place], len(text))
            start = "\n" if at == len(text) and text and not text.endswith("\n") else ""
            spans.append(matching.Span(at, at, start + "\n".join(after) + "\n"))
    return spans


def _removed(text: str, ends: list[int], place: int, begin: int) -> matching.Span:
    """The span of lines that go, with the newline of the last, or, at the end of the file, that before the first."""
    start, end = ends[place], ends[begin]
    if end > len(text) and start:
        return matching.Span(start - 1, len(text), "")
    return matching.Span(start, min(end, len(text)), "")


def _place(
    path: str, hunk: Hunk, lines: list[str], readings: dict[str, list[str]], begin: int
) -> tuple[int, list[str]]:
    """The number of the first line of ``hunk``, and its new lines as they should stand there."""
    for anchor in hunk.anchors:
        found = _seek([anchor], lines, readings, begin)
        if found is None:
            raise Malformed(f"{path}: found no line {anchor.strip()[:200]!r}, at which a change begins")
        begin = found[0] + 1
    # A file that ends with a newline has an empty last line, which is none.
    end = len(lines) - 1 if lines and not lines[-1] else len(lines)
    if not hunk.before:
        return (begin if hunk.anchors and not hunk.at_end else end), hunk.after
    if hunk.at_end:
        begin = max(begin, end - len(hunk.before))
    found = _seek(hunk.before, lines, readings, begin)
    if found is None and hunk.anchors:
        # The anchor may be quoted once more as the first line of the change.
        found = _seek(hunk.before, lines, readings, begin - 1)
    if found is None:
        quoted = "\n".join(hunk.before)[:500]
        raise Malformed(f"{path}: found no place for a change; these lines do not stand there in this order:\n{quoted}")
    place, exact = found
    if exact:
        return place, hunk.after
    there = lines[place : place + len(hunk.before)]
    return place, _kept(hunk, there)


def _kept(hunk: Hunk, there: list[str]) -> list[str]:
    """The new lines of a hunk, with lines that do not change as the file has them, the others indented alike."""
    if not hunk.after:
        return []
    fresh = matching.reindented("\n".join(hunk.after), hunk.before, there).split("\n")
    same: dict[str, list[str]] = {}
    for quote, line in zip(hunk.before, there, strict=True):
        same.setdefault(quote, []).append(line)
    return [same[line].pop(0) if same.get(line) else new for line, new in zip(hunk.after, fresh, strict=True)]


def _seek(wanted: list[str], lines: list[str], readings: dict[str, list[str]], begin: int) -> tuple[int, bool] | None:
    """Where ``wanted`` stands first at or behind ``begin``, and whether it does so to the letter."""
    if places := matching.seek(lines, wanted, begin):
        return places[0], True
    for name, read in matching.READINGS.items():
        if places := matching.seek(readings[name], [read(line) for line in wanted], begin):
            return places[0], False
    return None
