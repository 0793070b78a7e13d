"""The arguments of a call as a model wrote them, made a dict whatever they are."""

import json
from typing import Any, NamedTuple, NoReturn

#: Characters of a text that is looked at as JSON; a longer one is taken as it stands.
LONGEST = 16 * 1024 * 1024
#: Objects and lists within one another. What is deeper is taken as text: no tool takes it, and it may break an encoder.
DEEPEST = 64

#: Tools whose one argument that matters is a shell command.
SHELLS = frozenset({"terminal", "bash", "terminal_stateful", "bash_stateful"})


class Normalised(NamedTuple):
    """Arguments that a tool can be called with, and whether the model wrote them as its schema asks."""

    arguments: dict[str, Any]
    schema_valid: bool


def normalise(tool: str, raw: object) -> Normalised:
    """The arguments ``raw`` of a call of ``tool`` as a dict; never raises.

    ``raw`` is the text that the model wrote, or a value that its server has parsed already. An object is kept. An
    object inside a JSON string is taken out of it. Anything else becomes the command of a shell tool, or the argument
    ``input`` of another one. Only the object that was written as one is valid.
    """
    found = _decoded(raw) if isinstance(raw, str) else raw
    if raw is None:
        return Normalised({}, schema_valid=False)
    if isinstance(found, dict) and not _too_deep(found):
        return _checked(tool, found, direct=True)
    if isinstance(found, str):
        inner = _decoded(found)
        if isinstance(inner, dict) and not _too_deep(inner):
            return _checked(tool, inner, direct=False)
        return Normalised({_only_key(tool): found}, schema_valid=False)
    return Normalised({_only_key(tool): raw if isinstance(raw, str) else _text(raw)}, schema_valid=False)


def _checked(tool: str, arguments: dict[Any, Any], *, direct: bool) -> Normalised:
    """A shell tool needs a command; some models call it ``input``."""
    named = {str(key): value for key, value in arguments.items()}
    if tool not in SHELLS or _is_command(named.get("command")):
        return Normalised(named, schema_valid=direct)
    if _is_command(named.get("input")):
        named["command"] = named.pop("input")
    return Normalised(named, schema_valid=False)


def _is_command(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _only_key(tool: str) -> str:
    return "command" if tool in SHELLS else "input"


def _decoded(text: str) -> object:
    """The JSON value that ``text`` is, or ``text`` itself."""
    if len(text) > LONGEST:
        return text
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _too_deep(value: object) -> bool:
    """Whether ``value`` nests deeper than `DEEPEST`.

    Goes by levels and looks at each object once in one: a value that holds itself, or others many times, costs no more.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = list({id(inner): inner for outer in level for inner in _children(outer)}.values())
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list | tuple):
        inner = list(value)
    else:
        return []
    return [child for child in inner if isinstance(child, dict | list | tuple)]


def _text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return f"<{type(value).__name__}>"
