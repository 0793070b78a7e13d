"""What the tools do that calls may name; one file a family, beside its definitions in ``toolfleet.config.tools``."""

from toolfleet.config.settings import Settings
from toolfleet.config.tools import catalogue, own_tools
from toolfleet.config.tools.web import WEB
from toolfleet.workers.tools.artifacts import ARTIFACT_TOOLS
from toolfleet.workers.tools.base import (
    AnyTool,
    OutsideTool,
    Plan,
    Seen,
    Shown,
    Steps,
    Tool,
    ToolRegistry,
    advance,
    one_step,
    plainly,
)
from toolfleet.workers.tools.external import ToolServer
from toolfleet.workers.tools.files import PATCH_TOOL, SEARCH_FILES_TOOL, WRITE_FILE_TOOL
from toolfleet.workers.tools.processes import PROCESS_TOOL
from toolfleet.workers.tools.reading import READ_FILE_TOOL
from toolfleet.workers.tools.terminal import TERMINAL_STATEFUL_TOOL, TERMINAL_TOOL
from toolfleet.workers.tools.tmux import TMUX_TOOL
from toolfleet.workers.tools.transfers import TRANSFER_TOOLS
from toolfleet.workers.tools.user import user_tool
from toolfleet.workers.turns import Turns

__all__ = [
    "OutsideTool",
    "Plan",
    "Seen",
    "Shown",
    "Steps",
    "Tool",
    "ToolRegistry",
    "advance",
    "one_step",
    "plainly",
    "registry",
]

#: Tools of users that one worker runs in its process at once, and how many may wait for them.
IN_PROCESS, IN_LINE = 32, 1024

_BUILT_IN: tuple[AnyTool, ...] = (
    PATCH_TOOL,
    PROCESS_TOOL,
    READ_FILE_TOOL,
    SEARCH_FILES_TOOL,
    TERMINAL_STATEFUL_TOOL,
    TERMINAL_TOOL,
    TMUX_TOOL,
    WRITE_FILE_TOOL,
    *ARTIFACT_TOOLS,
    *TRANSFER_TOOLS,
)

FILES = (READ_FILE_TOOL, WRITE_FILE_TOOL, PATCH_TOOL, SEARCH_FILES_TOOL)


def registry(settings: Settings, server: ToolServer | None) -> ToolRegistry:
    """The tools of a worker with these ``settings``; external ones are run by ``server``.

    Raises:
        SettingsError: a module of ``settings.tools`` cannot be used; the message says what to change.
    """
    mine = own_tools(settings)
    turns = Turns(IN_PROCESS, IN_LINE)
    here = [user_tool(made, turns) for made in mine if made.definition.where != "external"]
    if server is None:
        away = [made.definition.name for made in mine if made.definition.where == "external"]
        return ToolRegistry([*_BUILT_IN, *here], unserved=[*(definition.name for definition in WEB), *away])
    external = [server.tool(definition) for definition in catalogue(settings) if definition.where == "external"]
    return ToolRegistry([*_BUILT_IN, *here, *external])
