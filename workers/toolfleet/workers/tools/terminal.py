"""``terminal``: a shell command in the trajectory's sandbox."""

from toolfleet.config.tools.terminal import TERMINAL, TerminalArguments
from toolfleet.workers.tools.base import Plan, one_step, plainly


def _plan(arguments: TerminalArguments) -> Plan:
    args = {"command": arguments.command}
    if arguments.workdir is not None:
        args["cwd"] = arguments.workdir
    return Plan("exec", args)


TERMINAL_TOOL = one_step(TERMINAL, _plan, plainly)
