"""A fixed number of slots that clients name, each with a trajectory behind it that a reset replaces."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from toolfleet.config.contract import new_id
from toolfleet.producer.adapters.atropos import ToolCall
from toolfleet.producer.adapters.slots import SlotState
from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.once import Once, call_id
from toolfleet.producer.fronts.sandbox_models import ExecuteRequest, Execution, SandboxHealth, Slots, SlotStatus


class UnknownSlot(Exception):
    """No slot has this name."""


@dataclass
class ServedSlot:
    """One slot."""

    slot_id: str
    workspaces: int = 1
    """How many it has had, the present one included."""
    running: list[str] = field(default_factory=list)
    """Ids of the executions that have not ended, oldest first."""

    @property
    def state(self) -> SlotState:
        """Whether anything runs in it."""
        return SlotState.EXECUTING if self.running else SlotState.AVAILABLE

    @property
    def trajectory_id(self) -> str:
        """The trajectory behind it."""
        return f"{self.slot_id}.{self.workspaces}"

    @contextmanager
    def executing(self, execution_id: str) -> Iterator[None]:
        """Note what runs."""
        self.running.append(execution_id)
        try:
            yield
        finally:
            self.running.remove(execution_id)


class SlotTable:
    """The slots ``slot_0`` to ``slot_<n - 1>``, and what runs in them."""

    def __init__(self, executor: ToolExecutor, slots: int) -> None:
        self._executor = executor
        self._slots = {name: ServedSlot(name) for name in (f"slot_{number}" for number in range(slots))}
        self._once: Once[Execution] = Once()
        profile = executor.backend.profile
        self._workdir = profile.workdir if profile else ""

    def get(self, slot_id: str) -> ServedSlot:
        """The slot of this name.

        Raises:
            UnknownSlot: there is none.
        """
        try:
            return self._slots[slot_id]
        except KeyError:
            raise UnknownSlot(slot_id) from None

    async def execute(self, request: ExecuteRequest) -> Execution:
        """Run one tool, behind the earlier ones of its slot; a request that is repeated runs once."""
        execution_id = request.execution_id or new_id("exec")
        try:
            slot = self.get(request.slot_id)
        except UnknownSlot as error:
            return Execution(success=False, error=f"Unknown slot: {error}", execution_id=execution_id)
        trajectory_id = slot.trajectory_id
        key = call_id(execution_id, request.tool, request.args)
        call = ToolCall(name=request.tool, arguments=request.args)

        async def work() -> Execution:
            with slot.executing(execution_id):
                done = await self._executor.execute(trajectory_id, call, request.timeout, call_id=key)
            if trajectory_id == slot.trajectory_id and not self._executor.backend.holds(trajectory_id):
                slot.workspaces += 1  # it was reaped, as this answer says; a slot is of use again at once
            return Execution(execution_id=execution_id, **done.model_dump(exclude={"uniq_id"}))

        return await self._once.do(f"{trajectory_id} {key}", work)

    async def reset(self, slot_id: str) -> None:
        """Give a slot an empty workspace. What runs ends in the old one, which is destroyed then."""
        slot = self.get(slot_id)
        gone = slot.trajectory_id
        slot.workspaces += 1
        await self._executor.release_trajectory(gone)

    def health(self) -> SandboxHealth:
        """How many there are, and how many are busy."""
        all_of_them, executing = len(self._slots), sum(bool(slot.running) for slot in self._slots.values())
        free = all_of_them - executing
        return SandboxHealth(slots=all_of_them, available=free, executing=executing, data_dir=self._workdir)

    def status(self) -> Slots:
        """Each of them."""
        return Slots(slots=[self._status(slot) for slot in self._slots.values()])

    def _status(self, slot: ServedSlot) -> SlotStatus:
        current = next(iter(slot.running), None)
        return SlotStatus(
            slot_id=slot.slot_id, state=slot.state, workspace_dir=self._workdir, current_execution_id=current
        )
