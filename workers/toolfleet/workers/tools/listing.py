"""What the runner lists, one JSON object a line, as text that may travel."""

import json
from typing import Any

from toolfleet.backends.base import Outcome


def entries(outcome: Outcome) -> list[dict[str, Any]]:
    """What an outcome lists, with names that have UTF-8: a byte that is none is shown as an escape."""
    return [_printable(json.loads(line)) for line in outcome.stdout.splitlines()]


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    return value
