"""Slots, and what came of an execution in one, as environments with an executor of their own know them."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel


class SlotState(StrEnum):
    """Where a slot is in its life."""

    AVAILABLE = "available"
    ACQUIRED = "acquired"
    EXECUTING = "executing"
    RELEASING = "releasing"
    ERROR = "error"


class SlotMisused(ValueError):
    """The slot is not in the state that the step begins from."""


class Slot(BaseModel):
    """The place of one trajectory.

    ``alloc_id`` names the worker that had the trajectory when the slot was acquired. Calls go by the trajectory and
    follow it to another worker. ``container_addr`` is empty, because no sandbox can be reached around the fleet.
    """

    slot_id: str
    alloc_id: str
    container_addr: str = ""
    workspace_dir: str = ""
    state: SlotState = SlotState.AVAILABLE
    trajectory_id: str | None = None
    metadata: dict[str, Any] = {}

    def model_post_init(self, context: object) -> None:
        """The usual ``workspace_dir`` follows from the id."""
        self.workspace_dir = self.workspace_dir or f"/data/{self.slot_id}"

    @property
    def key(self) -> str:
        """Its name in a pool."""
        return f"{self.alloc_id}:{self.slot_id}"

    def acquire(self, trajectory_id: str) -> None:
        """Give it to a trajectory.

        Raises:
            SlotMisused: it is not available.
        """
        self._require(SlotState.AVAILABLE, "acquired")
        self.state, self.trajectory_id = SlotState.ACQUIRED, trajectory_id

    def start_execution(self, execution_id: str) -> None:
        """Note what runs in it.

        Raises:
            SlotMisused: nobody has it, or something runs in it.
        """
        self._require(SlotState.ACQUIRED, "used")
        self.state = SlotState.EXECUTING
        self.metadata["current_execution_id"] = execution_id

    def end_execution(self) -> None:
        """Nothing runs in it any more."""
        self._require(SlotState.EXECUTING, "ended")
        self.state = SlotState.ACQUIRED
        self.metadata.pop("current_execution_id", None)

    def _require(self, state: SlotState, verb: str) -> None:
        if self.state is not state:
            raise SlotMisused(f"slot {self.slot_id} is {self.state}; only one that is {state} can be {verb}")


class ExecutionResult(BaseModel):
    """What came of one tool in one slot."""

    success: bool
    output: str = ""
    error: str = ""
    execution_id: str = ""
    slot_id: str = ""
    metadata: dict[str, Any] = {}
