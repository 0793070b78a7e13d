"""``terminal`` and ``terminal_stateful``: shell commands in the trajectory's sandbox."""

from pydantic import Field

from toolfleet.config.tools.base import Arguments, Definition


class TerminalArguments(Arguments):
    """Arguments of ``terminal``."""

    command: str = Field(min_length=1)
    """Shell command, run by ``bash -c`` with standard input closed."""
    workdir: str | None = None
    """Where it starts; the profile's ``workdir`` when absent."""
    background: bool = False
    """Start it and come back at once; ``process`` looks after it."""
    pty: bool = False
    """Give it a terminal, for programs that insist on one."""
    check_interval: int | None = Field(default=None, ge=1)
    """Accepted for the sake of models that know it; nothing is looked at by itself."""


class StatefulArguments(Arguments):
    """Arguments of ``terminal_stateful``."""

    command: str = Field(min_length=1)
    """Command for a shell that lives as long as the trajectory."""


TERMINAL = Definition(
    name="terminal",
    description=(
        "Run a shell command. Files persist between calls; the shell's variables do not. No input is given. "
        "For servers and other long work set background=true: the call returns a session_id at once, and the tool "
        "process polls it, waits for it, writes to it and kills it. Set pty=true for programs that need a terminal."
    ),
    arguments=TerminalArguments,
    aliases=("bash",),
)
TERMINAL_STATEFUL = Definition(
    name="terminal_stateful",
    description=(
        "Run a command in a shell that persists: variables, functions, the working directory and activated "
        "environments stay for the next call. No input is given. A command that ends the shell, or is stopped at its "
        "deadline, leaves the state as it was before it."
    ),
    arguments=StatefulArguments,
    aliases=("bash_stateful",),
)
