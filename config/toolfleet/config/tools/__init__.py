"""The tools that calls may name, as both sides know them; one file a family."""

from toolfleet.config.tools.base import Arguments, Catalogue, Definition, Where, parse
from toolfleet.config.tools.files import READ_FILE, WRITE_FILE
from toolfleet.config.tools.processes import PROCESS
from toolfleet.config.tools.terminal import TERMINAL, TERMINAL_STATEFUL
from toolfleet.config.tools.tmux import TMUX
from toolfleet.config.tools.transfers import TRANSFERS

__all__ = ["Arguments", "Catalogue", "Definition", "Where", "catalogue", "parse"]


def catalogue() -> Catalogue:
    """The tools that every fleet has."""
    return Catalogue([PROCESS, READ_FILE, TERMINAL, TERMINAL_STATEFUL, TMUX, WRITE_FILE, *TRANSFERS])
