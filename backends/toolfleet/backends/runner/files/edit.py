"""The operation `patch`: changes of one or several text files, all or nothing.

Everything is worked out in memory first; then the new contents are written beside the files, and put in place one
after another. What fails on the way takes back what was done before it.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolfleet.backends.runner.applets import os_write_all, sha256
from toolfleet.backends.runner.files import diff, matching, transfer, v4a

#: The largest file that can be patched, in bytes.
MOST = 16 * 1024 * 1024
#: Places that an error names at most.
NAMED = 5

_BOM = "\ufeff"


class Refused(Exception):
    """The change cannot be made; the message is a sentence."""


@dataclass(slots=True)
class Text:
    """A file as a text with plain line ends, and what gives its bytes back."""

    content: str
    mode: int
    bom: bool = False
    crlf: bool = False
    """Every line of it ends with a carriage return and a newline."""

    def encoded(self, content: str) -> bytes:
        """``content`` as this file would hold it."""
        if self.crlf:
            content = content.replace("\r\n", "\n").replace("\n", "\r\n")
        return (_BOM if self.bom else "").encode() + content.encode("utf-8", "surrogateescape")


@dataclass(slots=True)
class Edit:
    """What becomes of one path: ``data`` is its new content, None when it goes."""

    path: bytes
    data: bytes | None
    mode: int
    existed: bool


@dataclass(slots=True)
class Draft:
    """All edits of one patch, and what an answer tells of them."""

    edits: list[Edit] = field(default_factory=list)
    diffs: list[str] = field(default_factory=list)
    modified: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    reading: str = ""

    def answer(self) -> dict[str, Any]:
        """The detail of the operation."""
        text = "".join(self.diffs)
        return {
            "diff": text[: diff.SHOWN],
            "files_modified": self.modified,
            "files_created": self.created,
            "files_deleted": self.deleted,
            "no_change": not self.edits,
            "reading": self.reading,
            "sha256": {_shown(e.path): sha256(e.data).hexdigest() for e in self.edits if e.data is not None},
        }


def load(path: bytes) -> Text:
    """The text file ``path``.

    Raises:
        OSError: it cannot be read.
        Refused: it is none, or too large.
    """
    fd = transfer.opened(path)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise Refused(f"{_shown(path)} has more than {MOST} bytes; change it with a command")
    if b"\0" in data:
        raise Refused(f"{_shown(path)} is not a text file; change it with a command")
    text = data.decode("utf-8", "surrogateescape")
    content = text.removeprefix(_BOM)
    crlf = (
        "\r\n" in content and content.count("\n") == content.count("\r\n") and "\r" not in content.replace("\r\n", "")
    )
    return Text(content.replace("\r\n", "\n") if crlf else content, stat.S_IMODE(status.st_mode), text != content, crlf)


def replace(path: bytes, old: str, new: str, *, everywhere: bool) -> Mapping[str, Any]:
    """Put ``new`` where ``old`` stands in ``path``: in its only place, or everywhere."""
    try:
        draft = _replaced(path, old, new, everywhere=everywhere)
    except Refused as error:
        return {"error": str(error)}
    return _carried_out(draft)


def patch(base: bytes, text: str) -> Mapping[str, Any]:
    """Apply a V4A patch whose relative paths start at ``base``."""
    try:
        draft = _drafted(base, v4a.parse(text))
    except (Refused, v4a.Malformed) as error:
        return {"error": f"Nothing was changed: {error}"}
    return _carried_out(draft)


def _replaced(path: bytes, old: str, new: str, *, everywhere: bool) -> Draft:
    if not old:
        raise Refused("old_string is empty; quote the text that is to be replaced, or write the file with write_file")
    path = os.path.realpath(path)
    there = load(path)
    if there.crlf:
        old, new = old.replace("\r\n", "\n"), new.replace("\r\n", "\n")
    found = matching.find(there.content, old, new)
    if not found.spans:
        if new and new in there.content:
            raise Refused(f"old_string does not stand in {_shown(path)}, but new_string does: was it replaced before?")
        raise Refused(f"old_string does not stand in {_shown(path)}; read the file and quote it as it is")
    if len(found.spans) > 1 and not everywhere:
        lines = [there.content.count("\n", 0, span.start) + 1 for span in found.spans[:NAMED]]
        raise Refused(
            f"old_string stands {len(found.spans)} times in {_shown(path)}, at lines {', '.join(map(str, lines))}"
            f"{' ...' if len(found.spans) > NAMED else ''}; quote more of its surroundings, or set replace_all"
        )
    draft = Draft(reading=found.reading)
    _change(draft, path, there, _spliced(there.content, found.spans), path)
    return draft


def _spliced(text: str, spans: Iterable[matching.Span]) -> str:
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], span.text]
        at = span.end
    return "".join((*parts, text[at:]))


def _change(draft: Draft, path: bytes, there: Text, content: str, to: bytes) -> None:
    """Enter new content of a file, under its path or another one."""
    shown = _shown(path)
    draft.diffs.append(diff.unified(there.content, content, f"a/{shown.lstrip('/')}", f"b/{_shown(to).lstrip('/')}"))
    if to != path:
        draft.diffs[-1] = f"rename from {shown}\nrename to {_shown(to)}\n{draft.diffs[-1]}"
        draft.edits.append(Edit(to, there.encoded(content), there.mode, existed=False))
        draft.edits.append(Edit(path, None, there.mode, existed=True))
        draft.created.append(_shown(to))
        draft.deleted.append(shown)
    elif content != there.content:
        draft.edits.append(Edit(path, there.encoded(content), there.mode, existed=True))
        draft.modified.append(shown)


def _drafted(base: bytes, changes: list[v4a.Change]) -> Draft:
    draft = Draft()
    touched: set[bytes] = set()
    for change in changes:
        path = _resolved(base, change.path)
        to = path if change.to is None else _resolved(base, change.to)
        for one in {path, to}:
            if one in touched:
                raise Refused(f"the patch names {_shown(one)} twice; put all its changes under one heading")
            touched.add(one)
        if (change.kind == "add" or to != path) and os.path.lexists(to):
            raise Refused(f"{_shown(to)} exists already; use '*** Update File', or delete it first")
        try:
            _draft(draft, change, path, to)
        except OSError as error:
            raise Refused(f"{_shown(path)}: {error.strerror or error}") from error
    return draft


def _draft(draft: Draft, change: v4a.Change, path: bytes, to: bytes) -> None:
    if change.kind == "add":
        text = "".join(f"{line}\n" for line in change.lines)
        draft.edits.append(Edit(path, text.encode("utf-8", "surrogateescape"), 0o644, existed=False))
        draft.diffs.append(diff.unified("", text, "/dev/null", f"b/{_shown(path).lstrip('/')}"))
        draft.created.append(_shown(path))
    elif change.kind == "delete":
        there = load(path)
        draft.edits.append(Edit(path, None, there.mode, existed=True))
        draft.diffs.append(diff.unified(there.content, "", f"a/{_shown(path).lstrip('/')}", "/dev/null"))
        draft.deleted.append(_shown(path))
    else:
        there = load(path)
        _change(draft, path, there, _spliced(there.content, v4a.applied(change, there.content)), to)


def _resolved(base: bytes, path: str) -> bytes:
    if "\0" in path:
        raise Refused("there is a NUL byte in a path")
    return os.path.realpath(os.path.join(base, path.encode("utf-8", "surrogateescape")))


def _carried_out(draft: Draft) -> Mapping[str, Any]:
    """Write all edits of ``draft``, or none."""
    done: list[tuple[Edit, bytes]] = []
    """Edits in place, with the path at which the former file waits."""
    fresh: list[bytes] = []
    made: list[bytes] = []
    try:
        for number, edit in enumerate(draft.edits):
            if edit.data is not None:
                made += _make_parents(edit.path)
                fresh.append(_beside(edit.path, b"%d.new" % number))
                _write(fresh[-1], edit.data, edit.mode)
            else:
                fresh.append(b"")
        for number, edit in enumerate(draft.edits):
            kept = _beside(edit.path, b"%d.old" % number)
            if edit.existed:
                os.rename(edit.path, kept) if edit.data is None else os.link(edit.path, kept)
            done.append((edit, kept))
            if edit.data is not None:
                os.rename(fresh[number], edit.path)
    except OSError:
        _take_back(done, fresh, made)
        raise
    for edit, kept in done:
        if edit.existed:
            with contextlib.suppress(OSError):
                os.unlink(kept)
    return draft.answer()


def _take_back(done: list[tuple[Edit, bytes]], fresh: list[bytes], made: list[bytes]) -> None:
    for edit, kept in reversed(done):
        with contextlib.suppress(OSError):
            os.rename(kept, edit.path) if edit.existed else os.unlink(edit.path)
    # Renaming a file onto another name of itself leaves both.
    for path in (*fresh, *(kept for _, kept in done)):
        with contextlib.suppress(OSError):
            os.unlink(path)
    for directory in reversed(made):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _make_parents(path: bytes) -> list[bytes]:
    """Make the directories that ``path`` lacks, and return them, the highest first."""
    lacking = []
    parent = os.path.dirname(path)
    while not os.path.lexists(parent):
        lacking.append(parent)
        parent = os.path.dirname(parent)
    for directory in reversed(lacking):
        os.mkdir(directory)
    return lacking[::-1]


def _beside(path: bytes, name: bytes) -> bytes:
    return os.path.join(os.path.dirname(path), b".%d.%s.toolfleet" % (os.getpid(), name))


def _write(path: bytes, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os_write_all(fd, data)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
