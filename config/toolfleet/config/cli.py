"""``toolfleet``: a group of commands, each contributed by the component that it belongs to.

Commands are found through the entry points ``toolfleet.commands`` and imported when they are asked for, so the ground
floor knows nothing of what lies above it, and ``toolfleet run`` never imports a worker.
"""

import sys
from importlib.metadata import entry_points, version

import click
from click_didyoumean import DYMGroup

from toolfleet.config.errors import ToolfleetError

#: Exit status for wrong usage or configuration, as click has it.
USAGE = 2


class Commands(DYMGroup):  # type: ignore[misc]  # the library has no types
    """Loads a command from its entry point."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all contributed commands."""
        return sorted(point.name for point in entry_points(group="toolfleet.commands"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command ``cmd_name``."""
        for point in entry_points(group="toolfleet.commands", name=cmd_name):
            found = point.load()
            if isinstance(found, click.Command):
                return found
        return None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("toolfleet"), prog_name="toolfleet")
def group() -> None:
    """A worker fleet for the tool calls of LLM reinforcement learning.

    \b
    Examples:
      toolfleet doctor                                 what is there, what is missing
      toolfleet run calls.jsonl --out results.jsonl    replay trajectories on this machine
      toolfleet worker --slots 16                      serve the fleet of TOOLFLEET_REDIS_URL
      toolfleet status                                 who serves, and who waits
      toolfleet flower                                 watch it in a browser
    """


def main() -> None:
    """Run the command line; errors of ours end in one sentence, not in a traceback."""
    try:
        group(standalone_mode=True)
    except ToolfleetError as error:
        click.echo(f"toolfleet: {error}", err=True)
        sys.exit(USAGE)
