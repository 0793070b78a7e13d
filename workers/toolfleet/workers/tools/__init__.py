"""What the tools do that calls may name; one file a family, beside its definitions in ``toolfleet.config.tools``."""

from toolfleet.workers.tools.base import Plan, Seen, Shown, Steps, Tool, ToolRegistry, advance, one_step, plainly
from toolfleet.workers.tools.files import READ_FILE_TOOL, WRITE_FILE_TOOL
from toolfleet.workers.tools.processes import PROCESS_TOOL
from toolfleet.workers.tools.terminal import TERMINAL_STATEFUL_TOOL, TERMINAL_TOOL
from toolfleet.workers.tools.tmux import TMUX_TOOL
from toolfleet.workers.tools.transfers import TRANSFER_TOOLS

__all__ = [
    "Plan",
    "Seen",
    "Shown",
    "Steps",
    "Tool",
    "ToolRegistry",
    "advance",
    "default_registry",
    "one_step",
    "plainly",
]


def default_registry() -> ToolRegistry:
    """The tools that every worker has."""
    return ToolRegistry(
        [
            PROCESS_TOOL,
            READ_FILE_TOOL,
            TERMINAL_STATEFUL_TOOL,
            TERMINAL_TOOL,
            TMUX_TOOL,
            WRITE_FILE_TOOL,
            *TRANSFER_TOOLS,
        ]
    )
