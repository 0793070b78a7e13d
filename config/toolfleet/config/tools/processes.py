"""``process``: what a trajectory has started in the background."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from toolfleet.config.tools.base import Arguments, Definition

#: What can be done.
ACTIONS = ("list", "poll", "log", "wait", "kill", "write", "submit")


def _number_to_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class ProcessArguments(Arguments):
    """Arguments of ``process``."""

    action: str = Field(min_length=1, json_schema_extra={"enum": list(ACTIONS)})
    """One of `ACTIONS`."""
    session_id: Annotated[str, BeforeValidator(_number_to_text)] | None = None
    """Which process; four or more of the first digits of its id will do. Needed by all actions but ``list``."""
    data: str = ""
    """Text for ``write`` and ``submit``; the latter ends it with a newline."""
    eof: bool = False
    """``write``, ``submit``: close the input behind the text."""
    offset: int | None = Field(default=None, ge=0)
    """``log``: first line, from 0; the last ``limit`` lines when absent."""
    limit: int = Field(default=200, ge=1)
    """``log``: lines."""
    byte_offset: int | None = Field(default=None, ge=0)
    """``log``: read from this byte of the whole output on, instead of by lines."""


PROCESS = Definition(
    name="process",
    description=(
        "Look after background processes that terminal(background=true) has started: list them, poll one, read its "
        "log, wait for its end (at most timeout seconds), kill it with all it has started, write text to its input, "
        "or submit text with a newline."
    ),
    arguments=ProcessArguments,
)
