"""The tools that calls may name, as both sides know them; one file a family."""

from toolfleet.config.errors import SettingsError
from toolfleet.config.settings import Settings
from toolfleet.config.tools import user
from toolfleet.config.tools.artifacts import ARTIFACTS
from toolfleet.config.tools.base import Arguments, Catalogue, Definition, Where, parse
from toolfleet.config.tools.files import FILES
from toolfleet.config.tools.processes import PROCESS
from toolfleet.config.tools.terminal import TERMINAL, TERMINAL_STATEFUL
from toolfleet.config.tools.tmux import TMUX
from toolfleet.config.tools.transfers import TRANSFERS
from toolfleet.config.tools.user import Context, ToolFailed, UserTool, tool
from toolfleet.config.tools.web import WEB

__all__ = [
    "Arguments",
    "Catalogue",
    "Context",
    "Definition",
    "ToolFailed",
    "UserTool",
    "Where",
    "catalogue",
    "own_tools",
    "parse",
    "tool",
]

_BUILT_IN = (*FILES, PROCESS, TERMINAL, TERMINAL_STATEFUL, TMUX, *ARTIFACTS, *TRANSFERS)


def catalogue(settings: Settings | None = None) -> Catalogue:
    """The tools that every fleet has; with ``settings``, also those that they add.

    External ones are there only with a ToolServer to run them.

    Raises:
        SettingsError: a module of ``settings.tools`` cannot be used; the message says what to change.
    """
    if settings is None:
        return Catalogue(_BUILT_IN)
    mine = [made.definition for made in own_tools(settings)]
    replaced = {definition.name for definition in mine}
    found = [*_BUILT_IN, *(definition for definition in WEB if definition.name not in replaced), *mine]
    has_server = settings.tool_server_url is not None
    return Catalogue(definition for definition in found if has_server or definition.where != "external")


def own_tools(settings: Settings) -> list[UserTool[..., object]]:
    """The tools of the modules that ``settings`` name; one may take the place of an external tool of toolfleet's.

    Raises:
        SettingsError: a module cannot be used, or a tool has the name of one that every fleet has.
    """
    found = user.load(settings.tools)
    taken = {name for definition in _BUILT_IN for name in (definition.name, *definition.aliases)}
    for made in found:
        if made.definition.name in taken:
            raise SettingsError(f"there is a tool {made.definition.name!r} already: give yours another @tool(name=...)")
    return found
