"""Keys by the names that tmux gives them, as what a terminal sends for them."""

import re

_NAMED = {
    "Enter": "\r",
    "Tab": "\t",
    "BTab": "\x1b[Z",
    "Escape": "\x1b",
    "Space": " ",
    "BSpace": "\x7f",
    "Up": "\x1b[A",
    "Down": "\x1b[B",
    "Right": "\x1b[C",
    "Left": "\x1b[D",
    "Home": "\x1b[H",
    "End": "\x1b[F",
    "IC": "\x1b[2~",
    "Insert": "\x1b[2~",
    "DC": "\x1b[3~",
    "Delete": "\x1b[3~",
    "PPage": "\x1b[5~",
    "PageUp": "\x1b[5~",
    "PgUp": "\x1b[5~",
    "NPage": "\x1b[6~",
    "PageDown": "\x1b[6~",
    "PgDn": "\x1b[6~",
    "F1": "\x1bOP",
    "F2": "\x1bOQ",
    "F3": "\x1bOR",
    "F4": "\x1bOS",
    **{f"F{n}": f"\x1b[{code}~" for n, code in zip(range(5, 13), (15, 17, 18, 19, 20, 21, 23, 24), strict=True)},
}
_BY_CASE = {name.lower(): sent for name, sent in _NAMED.items()}
_CONTROL = re.compile(r"(?:C-|\^)([a-zA-Z@\[\\\]^_?]|Space)")
_META = re.compile(r"M-(.+)", re.DOTALL)


def encode(key: str) -> str:
    """What a terminal sends for one key; text that names none is sent as it is."""
    if key.lower() in _BY_CASE:
        return _BY_CASE[key.lower()]
    if (control := _CONTROL.fullmatch(key)) is not None:
        which = control[1]
        if which == "?":
            return "\x7f"
        return "\0" if which == "Space" else chr(ord(which.upper()) & 0x1F)
    if (meta := _META.fullmatch(key)) is not None:
        return "\x1b" + encode(meta[1])
    return key
