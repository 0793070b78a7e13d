"""The tools that calls may name."""

from toolfleet.workers.tools.base import Plan, Shown, Tool, ToolRegistry
from toolfleet.workers.tools.files import READ_FILE, WRITE_FILE
from toolfleet.workers.tools.terminal import TERMINAL

__all__ = ["Plan", "Shown", "Tool", "ToolRegistry", "default_registry"]


def default_registry() -> ToolRegistry:
    """The tools that every worker has."""
    return ToolRegistry([READ_FILE, TERMINAL, WRITE_FILE])
