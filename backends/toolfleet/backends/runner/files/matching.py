"""Where a text that a model quotes stands in a file, although it quotes white space carelessly.

Four readings, the strictest first; the first one that finds anything decides. All but the first compare whole lines.
Each takes linear time, for the file may be anybody's.
"""

import bisect
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Characters ``start`` to ``end`` of a text, and what is to stand there."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """Where it stands, and how it was read."""

    spans: list[Span]
    reading: str


_BLANKS = re.compile(r"[ \t]+")
#: Typographic signs that models and people write for plain ones.
_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u00a0": " "}
)


def trailing(line: str) -> str:
    """Blanks at the end of a line do not count, nor does the carriage return of a file with mixed ends."""
    return line.rstrip(" \t\r")


def indentation(line: str) -> str:
    """Nor do those at its beginning."""
    return line.strip(" \t\r")


def blanks(line: str) -> str:
    """Any run of blanks is one, and typographic signs are plain ones."""
    return _BLANKS.sub(" ", line.translate(_PLAIN)).strip(" \r")


#: Readings of lines by name, the strictest first.
READINGS: dict[str, Callable[[str], str]] = {"trailing": trailing, "indentation": indentation, "blanks": blanks}


def find(text: str, old: str, new: str) -> Found:
    """Every place of ``old`` in ``text``, each with ``new`` as it should stand there.

    Places do not overlap. Where the indentation differs, ``new`` gets that of the place.
    """
    exact = _exact(text, old)
    if exact:
        return Found([Span(at, at + len(old), new) for at in exact], "exact")
    lines, quoted = text.split("\n"), _whole_lines(old)
    if not any(line.strip() for line in quoted):
        return Found([], "none")
    starts = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
    for name, read in READINGS.items():
        places = seek([read(line) for line in lines], [read(line) for line in quoted])
        if places:
            return Found([_span(text, starts, place, old, new, reindent=name != "trailing") for place in places], name)
    return Found([], "none")


def seek(lines: list[str], quoted: list[str], begin: int = 0) -> list[int]:
    """The numbers, from 0 and at least ``begin``, at which ``quoted`` stands in ``lines``, without overlap."""
    if not quoted:
        return []
    # One search in one string: comparing line by line would take quadratic time on a file made for that.
    joined = "\n" + "\n".join(lines) + "\n"
    wanted = "\n" + "\n".join(quoted) + "\n"
    starts = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
    found, at = [], starts[min(begin, len(lines))]
    while (at := joined.find(wanted, at)) >= 0:
        found.append(bisect.bisect_left(starts, at))
        at += len(wanted) - 1
    return found


def _exact(text: str, old: str) -> list[int]:
    found, at = [], 0
    while (at := text.find(old, at)) >= 0:
        found.append(at)
        at += len(old)
    return found


def _whole_lines(old: str) -> list[str]:
    return old.removesuffix("\n").split("\n")


def _span(text: str, starts: list[int], place: int, old: str, new: str, *, reindent: bool) -> Span:
    quoted = _whole_lines(old)
    start, end = starts[place], starts[place + len(quoted)]
    # The last newline belongs to the place if it belongs to the quotation; the last line may have none.
    end = min(end if old.endswith("\n") else end - 1, len(text))
    if reindent:
        new = reindented(new, quoted, text[start:end].split("\n"))
    return Span(start, end, new)


def reindented(text: str, quoted: list[str], there: list[str]) -> str:
    """``text``, written beside ``quoted``, with the indentation that the lines ``there`` have."""
    pairs = [(indent_of(q), indent_of(t)) for q, t in zip(quoted, there, strict=False) if q.strip()]
    if all(had == has for had, has in pairs):
        return text
    levels: dict[str, str] = {}
    for had, has in pairs:
        levels.setdefault(had, has)
    return "\n".join(_reindented(line, levels, pairs[0]) if line.strip() else line for line in text.split("\n"))


def _reindented(line: str, levels: dict[str, str], first: tuple[str, str]) -> str:
    """A line with the deepest known level of its own indentation put right; one above all of them moves along."""
    indent = indent_of(line)
    for length in range(len(indent), -1, -1):
        if indent[:length] in levels:
            return levels[indent[:length]] + line[length:]
    had, has = first
    if has.endswith(had):
        return has[: len(has) - len(had)] + line
    return line.removeprefix(had[: len(had) - len(has)]) if had.endswith(has) else line


def indent_of(line: str) -> str:
    """The blanks at the beginning of a line."""
    return line[: len(line) - len(line.lstrip(" \t"))]
