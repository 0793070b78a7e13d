"""``terminal``: a shell command in the trajectory's sandbox."""

from pydantic import Field

from toolfleet.config.tools.base import Arguments, Definition


class TerminalArguments(Arguments):
    """Arguments of ``terminal``."""

    command: str = Field(min_length=1)
    """Shell command, run by ``bash -c`` with standard input closed."""
    workdir: str | None = None
    """Where it starts; the profile's ``workdir`` when absent."""


TERMINAL = Definition(
    name="terminal",
    description="Run a shell command. Files persist between calls; the shell's variables do not. No input is given.",
    arguments=TerminalArguments,
    aliases=("bash",),
)
