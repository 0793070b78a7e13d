"""``read_file`` and ``write_file``: text files in the trajectory's sandbox."""

from pydantic import Field

from toolfleet.config.tools.base import Arguments, Definition


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


READ_FILE = Definition(name="read_file", description="Read lines of a text file.", arguments=ReadFileArguments)
WRITE_FILE = Definition(
    name="write_file",
    description="Write a text file, replacing it if it exists; missing folders are made.",
    arguments=WriteFileArguments,
)
