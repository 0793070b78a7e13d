"""The operation `lint`: whether a file that was written can be parsed. Python, JSON and TOML; others are skipped."""

import json
import os
import tomllib
from collections.abc import Mapping
from typing import Any

from toolfleet.backends.runner.files import transfer

#: Larger files are not parsed.
MOST = 2 * 1024 * 1024


def _python(text: str, name: str) -> None:
    compile(text, name, "exec", flags=_ONLY_AST, dont_inherit=True)


def _json(text: str, _: str) -> None:
    json.loads(text)


def _toml(text: str, _: str) -> None:
    tomllib.loads(text)


#: `ast.PyCF_ONLY_AST`, without the module.
_ONLY_AST = 0x400
_PARSERS = {".py": _python, ".json": _json, ".toml": _toml}


def lint(path: bytes) -> Mapping[str, Any]:
    """``status`` ok, error (``output`` says where) or skipped (``message`` says why)."""
    name = os.path.basename(path).decode(errors="backslashreplace")
    parse = _PARSERS.get(os.path.splitext(name)[1])
    if parse is None:
        return {"status": "skipped", "message": f"No parser for {name}"}
    fd = transfer.opened(path)
    if os.fstat(fd).st_size > MOST:
        return {"status": "skipped", "message": f"{name} is larger than {MOST} bytes"}
    with os.fdopen(fd, "rb") as file:
        content = file.read(MOST)
    try:
        parse(content.decode("utf-8").removeprefix("\ufeff"), name)
    except SyntaxError as error:
        return {"status": "error", "output": f"line {error.lineno}: {error.msg}"}
    except ValueError as error:  # of JSON, TOML and UTF-8
        return {"status": "error", "output": str(error)}
    except (RecursionError, MemoryError):
        return {"status": "skipped", "message": f"{name} is nested too deeply"}
    return {"status": "ok"}
