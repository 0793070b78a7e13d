"""The arguments of a request, checked one by one; a wrong one keeps the operation from starting."""

from collections.abc import Mapping
from typing import Any

from toolfleet.backends.runner.spawn import CannotStart


def encode(value: str, what: str) -> bytes:
    """``value`` as the kernel takes it."""
    if "\0" in value:
        raise CannotStart(f"There is a NUL byte in {what}")
    return value.encode("utf-8", "surrogateescape")


def text(args: Mapping[str, Any], name: str) -> str:
    """The string ``name``."""
    value = args.get(name)
    if not isinstance(value, str):
        raise CannotStart(f"The argument {name!r} must be a string")
    return value


def number(args: Mapping[str, Any], name: str, default: int | None) -> int | None:
    """The whole number ``name``, or ``default`` where there is none."""
    value = args.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise CannotStart(f"The argument {name!r} must be a whole number")
    return value


def count(args: Mapping[str, Any], name: str, default: int) -> int:
    """The whole number ``name``, which is not negative, or ``default`` where there is none."""
    value = number(args, name, default)
    if value is None or value < 0:
        raise CannotStart(f"The argument {name!r} must not be negative")
    return value


def flag(args: Mapping[str, Any], name: str) -> bool:
    """The truth value ``name``; False where there is none."""
    value = args.get(name, False)
    if not isinstance(value, bool):
        raise CannotStart(f"The argument {name!r} must be true or false")
    return value


def mapping(args: Mapping[str, Any], name: str) -> dict[str, str]:
    """The strings by name under ``name``; none where there is nothing."""
    value = args.get(name) or {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise CannotStart(f"The argument {name!r} must map names to strings")
    return value
