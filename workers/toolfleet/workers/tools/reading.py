"""``read_file``: numbered lines of a text file, as many as fit into a result."""

import difflib
import os

from toolfleet.config.contract import OUTPUT_LIMIT
from toolfleet.config.tools.files import READ_FILE, ReadFileArguments
from toolfleet.workers.tools.base import Plan, Seen, Shown, Steps, Tool
from toolfleet.workers.tools.listing import entries

#: Most bytes that one `read_file` brings back; the rest is read by offset.
READ_LIMIT = 200_000
#: Characters of a line that are shown.
LONGEST_LINE = 2000
#: Entries of a directory in which a file of a similar name is looked for, and names that are proposed.
NEIGHBOURS, PROPOSED = 500, 5
#: Characters of a name that are compared; the names may be anybody's, and comparing takes quadratic time.
COMPARED = 64

_IMAGES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")
#: Characters kept free for the hint.
_ROOM = 300


def _read(arguments: ReadFileArguments) -> Steps:
    args = {"path": arguments.path, "offset": arguments.offset, "limit": arguments.limit, "max_bytes": READ_LIMIT}
    seen = yield Plan("read", args, binary=True)
    if not seen.outcome.error:
        return _shown(seen, arguments.offset)
    similar: list[str] = []
    if seen.outcome.error.startswith("File not found"):
        parent, name = os.path.split(arguments.path)
        listed = yield Plan("list", {"path": parent or ".", "max_entries": NEIGHBOURS}, binary=True)
        names = {e["path"][:COMPARED]: os.path.join(parent, e["path"]) for e in entries(listed.outcome)}
        similar = [names[near] for near in difflib.get_close_matches(name[:COMPARED], names, n=PROPOSED)]
    error = seen.outcome.error
    proposal = f"\nSimilar files: {', '.join(similar)}" if similar else ""
    detail = {"similar_files": similar} if similar else {}
    return Shown(error + proposal, seen.outcome.exit_code or 1, error, stdout="", detail=detail)


def _shown(seen: Seen, first: int) -> Shown:
    outcome = seen.outcome
    size, total = outcome.detail["size"], outcome.detail["total_lines"]
    detail = {"total_lines": total, "file_size": size, "is_binary": False, "is_image": False}
    if b"\0" in outcome.stdout:
        image = outcome.stdout.startswith(_IMAGES) or outcome.stdout[8:12] == b"WEBP"
        error = f"This is {'an image' if image else 'a binary file'} of {size} bytes; it cannot be shown as text"
        detail |= {"is_binary": True, "is_image": image}
        return Shown(error, 1, error, detail=detail, stdout="")
    lines = outcome.stdout.decode("utf-8", "replace").split("\n")
    if not lines[-1]:
        lines.pop()
    numbered, taken = _numbered(lines, first)
    following = outcome.detail["next_offset"] if taken == len(lines) else first + taken
    cut = following is not None
    hint = _hint(first, taken, following, total, size)
    if hint:
        detail["hint"] = hint
    output = numbered + (f"\n[{hint}]" if hint else "")
    # The newline of the last line that is shown belongs to it unless the file ends without one.
    whole = "\n".join(lines[:taken]) + ("\n" if taken and (cut or outcome.stdout.endswith(b"\n")) else "")
    return Shown(output, 0, truncated=cut, detail=detail | {"truncated": cut}, stdout=whole)


def _numbered(lines: list[str], first: int) -> tuple[str, int]:
    """The lines as they are shown, as many as fit, and how many that are."""
    shown: list[str] = []
    room = OUTPUT_LIMIT - _ROOM
    for number, line in enumerate(lines, first):
        text = line.removesuffix("\r")
        text = text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}... [truncated]"
        shown.append(f"{number:6d}|{text}")
        room -= len(shown[-1]) + 1
        if room < 0 and len(shown) > 1:
            shown.pop()
            break
    return "\n".join(shown), len(shown)


def _hint(first: int, taken: int, following: int | None, total: int | None, size: int) -> str:
    if following is not None:
        whole = f"{total} lines" if total is not None else f"{size} bytes"
        return f"Use offset={following} to read on; the file has {whole}"
    if not taken and first > 1:
        return f"The file has only {total} lines"
    return "" if taken else "The file is empty"


READ_FILE_TOOL = Tool(READ_FILE, _read)
