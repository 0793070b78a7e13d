"""The tree drawn at the top of ``errors.py`` is the tree there is."""

import inspect
import re

from toolfleet.config import errors
from toolfleet.config.errors import ToolfleetError


def drawn() -> dict[str, str | None]:
    """Class -> parent, read off the drawing: four columns a level."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").split("::\n")[1].split("\n"):
        match = re.match(r"    ([ │├└─]*)([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4
            parents[match[2]] = path[depth - 1] if depth else None
            path[depth:] = [match[2]]
    return parents


def real() -> dict[str, str | None]:
    """Class -> parent, of every error that the module defines."""
    found = {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__ and issubclass(kind, BaseException)
    }
    return {
        name: None if kind is ToolfleetError else kind.__bases__[0].__name__
        for name, kind in found.items()
        if len(kind.__bases__) == 1
    }


def test_the_drawing_equals_the_classes() -> None:
    assert drawn() == real()


def test_every_error_says_what_happened() -> None:
    for name in real():
        assert inspect.getdoc(getattr(errors, name)), name


def test_a_lost_sandbox_tells_whether_the_request_had_reached_it() -> None:
    assert errors.SandboxLost("gone", sent=True).sent
    assert str(errors.SandboxLost("gone", sent=False)) == "gone"
