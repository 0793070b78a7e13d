"""What the executor needs of the ledger of calls."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from toolfleet.config.contract import ToolResult

if TYPE_CHECKING:
    from toolfleet.workers.run import Run


class Ledger:
    """Two of its scripts, which the core runs for many calls at once."""

    def __init__(
        self,
        start: Callable[["Run"], Awaitable[tuple[str, float]]],
        finish: Callable[[ToolResult, int], Awaitable[str]],
    ) -> None:
        self.start = start
        self.finish = finish
