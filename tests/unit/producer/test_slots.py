"""B2: a slot goes from state to state, and refuses a step that does not begin where it is."""

import pytest

from toolfleet.producer.adapters.slots import Slot, SlotMisused, SlotState


def test_a_slot_is_acquired_used_and_used_again() -> None:
    slot = Slot(slot_id="slot_0", alloc_id="w1")
    assert (slot.key, slot.workspace_dir, slot.state) == ("w1:slot_0", "/data/slot_0", SlotState.AVAILABLE)
    slot.acquire("t1")
    assert (slot.state, slot.trajectory_id) == (SlotState.ACQUIRED, "t1")
    for execution in ("e1", "e2"):
        slot.start_execution(execution)
        assert (slot.state, slot.metadata) == (SlotState.EXECUTING, {"current_execution_id": execution})
        slot.end_execution()
    assert (slot.state, slot.metadata) == (SlotState.ACQUIRED, {})


def test_what_nobody_has_cannot_be_used() -> None:
    with pytest.raises(SlotMisused, match="slot_0 is available"):
        Slot(slot_id="slot_0", alloc_id="w1").start_execution("e1")


def test_what_somebody_has_cannot_be_acquired() -> None:
    slot = Slot(slot_id="slot_0", alloc_id="w1")
    slot.acquire("t1")
    with pytest.raises(SlotMisused, match="only one that is available"):
        slot.acquire("t2")
