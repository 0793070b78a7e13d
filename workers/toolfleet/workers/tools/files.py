"""``read_file`` and ``write_file``: text files in the trajectory's sandbox, without a shell in between."""

from pydantic import Field

from toolfleet.backends.base import Outcome
from toolfleet.workers.tools.base import Arguments, Plan, Shown, Tool

#: Most bytes that one `read_file` brings back; the rest is read by offset.
READ_LIMIT = 200_000


class ReadFileArguments(Arguments):
    """Arguments of ``read_file``."""

    path: str = Field(min_length=1)
    offset: int = Field(default=1, ge=1)
    """First line, from 1."""
    limit: int = Field(default=500, ge=1, le=2000)
    """Lines."""


class WriteFileArguments(Arguments):
    """Arguments of ``write_file``."""

    path: str = Field(min_length=1)
    content: str


def _plan_read(arguments: ReadFileArguments) -> Plan:
    args = {"path": arguments.path, "offset": arguments.offset, "limit": arguments.limit, "max_bytes": READ_LIMIT}
    return Plan("read", args)


def _show_read(outcome: Outcome, stdout: str, stderr: str) -> Shown:
    if outcome.error:
        return Shown(outcome.error, outcome.exit_code or 1, outcome.error)
    following = outcome.detail.get("next_offset")
    if following is None:
        return Shown(stdout, outcome.exit_code)
    size = outcome.detail.get("size")
    hint = f"\n[the file goes on: {size} bytes in all; read on with offset={following}]"
    return Shown(stdout + hint, outcome.exit_code, truncated=True)


def _plan_write(arguments: WriteFileArguments) -> Plan:
    return Plan("write", {"path": arguments.path}, arguments.content.encode("utf-8", "surrogateescape"))


def _show_write(outcome: Outcome, stdout: str, stderr: str) -> Shown:
    if outcome.error:
        return Shown(outcome.error, outcome.exit_code or 1, outcome.error)
    return Shown(f"wrote {outcome.detail.get('bytes')} bytes", outcome.exit_code)


READ_FILE = Tool(
    name="read_file",
    description="Read lines of a text file.",
    arguments=ReadFileArguments,
    plan=_plan_read,
    show=_show_read,
)
WRITE_FILE = Tool(
    name="write_file",
    description="Write a text file, replacing it if it exists; missing folders are made.",
    arguments=WriteFileArguments,
    plan=_plan_write,
    show=_show_write,
)
