"""The operation `search`: a pattern in the contents, or a glob in the names, of the files below a directory.

It runs for as long as its pattern takes; the call's deadline ends it. Links and directories whose name begins with a
dot are not entered, files that hold a NUL byte in their first bytes are passed over.
"""

import contextlib
import fnmatch
import json
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolfleet.backends.runner.applets import CHUNK, os_write_all
from toolfleet.backends.runner.files import transfer, tree

Mode = Literal["content", "files_only", "count", "names"]
MODES: tuple[Mode, ...] = ("content", "files_only", "count", "names")

#: Entries of a tree that one search looks at.
MOST_ENTRIES = 200_000
#: Bytes of one file that are searched.
MOST_OF_A_FILE = 16 * 1024 * 1024
#: Bytes of a file in which a NUL byte makes it a binary one.
LOOK = 8192
#: The longest line that is searched as one, and characters of a line that are shown.
LONG_LINE, SHOWN = 1024 * 1024, 500
#: Bytes of findings after which no more are shown: what is one answer must fit into a result.
MOST_SHOWN = 40_000
#: Findings beyond the wanted ones that are counted before the count becomes a lower bound.
COUNT_AHEAD = 10_000


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for. ``mode`` ``names`` matches names against a glob, the others search contents."""

    pattern: str
    mode: Mode
    glob: str | None
    """Only files whose name matches it."""
    limit: int
    offset: int
    context: int
    """Lines to show before and after each match."""


def search(out: int, path: bytes, query: Query) -> Mapping[str, Any]:
    """Write what is found below ``path``, or in that file, to ``out``, one JSON object a line."""
    try:
        pattern = re.compile(query.pattern) if query.mode != "names" else None
    except (re.error, OverflowError, RecursionError) as error:
        return {"error": f"Not a regular expression: {error}"}
    return _Search(out, path, query, pattern).run()


class _Search:
    def __init__(self, out: int, path: bytes, query: Query, pattern: re.Pattern[str] | None) -> None:
        self._out = out
        self._path = path
        self._query = query
        self._pattern = pattern
        self._found = 0
        self._looked_at = 0
        self._shown = 0
        self._written = 0
        self._cut: list[str] = []

    def run(self) -> dict[str, Any]:
        complete = True
        for name, full in self._files():
            if self._query.mode == "names":
                self._tell({"path": name}) if _matches(name, self._query.pattern) else None
            elif self._query.glob is None or _matches(name, self._query.glob):
                with contextlib.suppress(OSError):  # gone, or not ours to read
                    self._search_file(name, full)
            if self._found > self._last + COUNT_AHEAD:
                complete = False
                break
        return {
            "total_count": self._found,
            "total_count_is_lower_bound": not complete or self._looked_at >= MOST_ENTRIES,
            "truncated": self._found > self._query.offset + self._shown,
            "searched_in_part": self._cut,
        }

    @property
    def _last(self) -> int:
        return self._query.offset + self._query.limit

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """Names to show and paths of all regular files."""
        if not stat.S_ISDIR(os.stat(self._path).st_mode):
            yield os.path.basename(self._path).decode("utf-8", "surrogateescape"), self._path
            return
        for entry in tree.walk(self._path, MOST_ENTRIES, hidden=False):
            self._looked_at += 1
            if stat.S_ISREG(entry.status.st_mode):
                yield entry.path.decode("utf-8", "surrogateescape"), os.path.join(self._path, entry.path)

    def _tell(self, finding: dict[str, Any]) -> bool:
        """Count a finding, write it if it is wanted; False when enough has been found."""
        self._found += 1
        if self._query.offset < self._found <= self._last and self._written < MOST_SHOWN:
            line = json.dumps(finding).encode("ascii") + b"\n"
            os_write_all(self._out, line)
            self._shown += 1
            self._written += len(line)
        return self._found <= self._last + COUNT_AHEAD

    def _search_file(self, name: str, full: bytes) -> None:
        fd = transfer.opened(full)
        try:
            if b"\0" in os.pread(fd, LOOK, 0):
                return
            if os.fstat(fd).st_size > MOST_OF_A_FILE and len(self._cut) < tree.NAMED:
                self._cut.append(os.fsencode(name).decode(errors="backslashreplace"))
            if self._query.mode == "content":
                self._show_matches(name, fd)
            elif self._query.mode == "files_only":
                if any(self._search(line) for _, line in _lines(fd)):
                    self._tell({"path": name})
            else:
                matches = sum(1 for _, line in _lines(fd) if self._search(line))
                if matches:
                    self._tell({"path": name, "count": matches})
        finally:
            os.close(fd)

    def _search(self, line: str) -> bool:
        return self._pattern is not None and self._pattern.search(line) is not None

    def _show_matches(self, name: str, fd: int) -> None:
        before: deque[str] = deque(maxlen=self._query.context)
        waiting: list[dict[str, Any]] = []
        """Matches that want lines after them, the oldest first."""
        for number, line in _lines(fd):
            for match in waiting:
                match["after"].append(line[:SHOWN])
            if waiting and len(waiting[0]["after"]) == self._query.context:
                self._tell(waiting.pop(0))
            if self._search(line):
                match = {"path": name, "line": number, "content": line[:SHOWN]}
                if self._query.context:
                    waiting.append(match | {"before": list(before), "after": []})
                elif not self._tell(match):
                    return
            if self._found > self._last + COUNT_AHEAD:
                return
            before.append(line[:SHOWN])
        for match in waiting:
            self._tell(match)


def _lines(fd: int) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends; one that is too long comes in pieces under the same number."""
    number, rest, seen = 1, b"", 0
    while seen < MOST_OF_A_FILE and (chunk := os.pread(fd, CHUNK, seen)):
        seen += len(chunk)
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield number, _decoded(line)
            number += 1
        if len(rest) >= LONG_LINE:
            yield number, _decoded(rest)
            rest = b""
    if rest:
        yield number, _decoded(rest)


def _decoded(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")


def _matches(name: str, glob: str) -> bool:
    """Whether a name, or a path where the glob has a slash, matches; ``**/`` stands for any directories or none."""
    if "/" not in glob:
        return fnmatch.fnmatchcase(os.path.basename(name), glob)
    return fnmatch.fnmatchcase(name, glob) or (glob.startswith("**/") and fnmatch.fnmatchcase(name, glob[3:]))
