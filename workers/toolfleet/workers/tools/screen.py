"""What is on a terminal's screen, by what has been printed to it."""

import json
import re
from collections.abc import Mapping, Sequence

import pyte

#: Lines that are remembered above the screen.
HISTORY = 5000
#: Bytes and lines from which a screen is made; a program that draws on it redraws it within far less.
LATEST, LATEST_LINES = 64 * 1024, 1000

#: Where a sequence may begin; and those whose numbers no terminal would read to the end.
_PIECES = re.compile(rb"(?=\x1b)")
_ENDLESS = re.compile(rb"(?:\x1b\[|\xc2\x9b)[0-9;:<=>?]{65,}")


def rows(printed: bytes, columns: int, lines: int, *, entire: bool = False) -> list[str]:
    """The rows of the screen from the top, without blanks at their ends; with ``entire`` what has left it before them.

    What a program prints is data: no sequence of bytes is an error. May take seconds.
    """
    printed = _last_lines(printed, HISTORY) if entire else _last_lines(printed[-LATEST:], LATEST_LINES)
    printed = _ENDLESS.sub(b"", printed)
    screen = pyte.HistoryScreen(columns, lines, history=HISTORY) if entire else pyte.Screen(columns, lines)
    _feed(screen, printed)
    # Not `screen.display`: it takes half of a wide character, which a program may leave behind, for an error.
    shown = [_text(screen.buffer[y], columns) for y in range(lines)]
    if isinstance(screen, pyte.HistoryScreen):
        shown = [_text(line, columns) for line in screen.history.top] + shown
    while shown and not shown[-1]:
        shown.pop()
    return shown


def _text(line: Mapping[int, pyte.screens.Char], columns: int) -> str:
    return "".join(line[column].data for column in range(columns)).rstrip()


def _feed(screen: pyte.Screen, printed: bytes) -> None:
    """Show ``printed``; sequences that the emulator cannot bear are left out, for a terminal ignores what it is not."""
    stream = pyte.ByteStream(screen)
    for piece in _PIECES.split(printed):
        try:
            stream.feed(piece)
        except Exception:  # noqa: BLE001 - whatever a program has printed, it is not our failure
            stream = pyte.ByteStream(screen)


def _last_lines(printed: bytes, lines: int) -> bytes:
    """Scrolling is what takes long: no more of it than can be seen."""
    return b"\n".join(printed.rsplit(b"\n", lines)[-lines:])


def cast_header(columns: int, lines: int) -> str:
    """The first line of a recording in the format of asciinema (asciicast v2)."""
    return json.dumps({"version": 2, "width": columns, "height": lines})


def cast_events(printed: bytes, first: int, moments: Sequence[tuple[int, float]]) -> list[str]:
    """A recording's lines for what was ``printed`` from offset ``first`` on; ``moments`` are (offset, seconds)."""
    cuts = [(max(0, offset - first), seconds) for offset, seconds in moments if offset < first + len(printed)]
    if not cuts or cuts[0][0] > 0:
        cuts.insert(0, (0, cuts[0][1] if cuts else 0.0))
    ends = [offset for offset, _ in cuts[1:]] + [len(printed)]
    pieces = [(seconds, printed[start:end]) for (start, seconds), end in zip(cuts, ends, strict=True)]
    return [json.dumps([round(seconds, 6), "o", text]) for seconds, text in _decoded(pieces) if text]


def _decoded(pieces: list[tuple[float, bytes]]) -> list[tuple[float, str]]:
    """As text; a character that was printed in two pieces belongs to the second one."""
    decoded, rest = [], b""
    for seconds, piece in pieces:
        piece = rest + piece
        whole = _whole(piece)
        decoded.append((seconds, piece[:whole].decode("utf-8", "replace")))
        rest = piece[whole:]
    if rest and decoded:
        seconds, text = decoded[-1]
        decoded[-1] = seconds, text + rest.decode("utf-8", "replace")
    return decoded


def _whole(piece: bytes) -> int:
    """Bytes of ``piece`` before a character that has begun and not ended."""
    for back in range(1, min(4, len(piece)) + 1):
        byte = piece[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(piece) - back if length > back else len(piece)
        if byte < 0x80:
            break
    return len(piece)
