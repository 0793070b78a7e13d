"""``terminal``: a shell command in the trajectory's sandbox."""

from pydantic import Field

from toolfleet.backends.base import Outcome
from toolfleet.workers.tools.base import Arguments, Plan, Shown, Tool


class TerminalArguments(Arguments):
    """Arguments of ``terminal``."""

    command: str = Field(min_length=1)
    """Shell command, run by ``bash -c`` with standard input closed."""
    workdir: str | None = None
    """Where it starts; the profile's ``workdir`` when absent."""


def _plan(arguments: TerminalArguments) -> Plan:
    args = {"command": arguments.command}
    if arguments.workdir is not None:
        args["cwd"] = arguments.workdir
    return Plan("exec", args)


def _show(outcome: Outcome, stdout: str, stderr: str) -> Shown:
    # A command that succeeded may chat on stderr; only a failure makes that the model's business.
    failed = outcome.exit_code != 0 and stderr
    joint = "\n" if stdout and not stdout.endswith("\n") else ""
    return Shown(f"{stdout}{joint}{stderr}" if failed else stdout, outcome.exit_code, outcome.error)


TERMINAL = Tool(
    name="terminal",
    description="Run a shell command. Files persist between calls; the shell's variables do not. No input is given.",
    arguments=TerminalArguments,
    plan=_plan,
    show=_show,
)
