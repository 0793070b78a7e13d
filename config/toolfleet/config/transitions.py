"""How a lease and a call may change: every legal transition, with the scripts that make it.

The scripts (``scripts/*.lua``) hold the rules; this table says what they may amount to. A test holds the two together:
random interleavings on a real Redis make no other transition, and nearly every one of these.
``python -m toolfleet.config.transitions`` prints docs/states.md.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class LeaseState(enum.StrEnum):
    """The field ``state`` of a lease; `ABSENT` when Redis knows none."""

    ABSENT = ""
    ASSIGNED = "assigned"
    """A worker has the slot reserved and has not taken it up."""
    ACTIVE = "active"
    """Its holder serves the trajectory."""
    CLOSING = "closing"
    """Its producer closed it; the calls that entered before still run."""
    LOST = "lost"
    """Its holder is gone, and the workspace with it."""
    CLOSED = "closed"
    """A tombstone: it turns late calls away and keeps the epoch rising."""


class CallState(enum.StrEnum):
    """The field ``state`` of a call in the ledger; `ABSENT` when the ledger does not know it."""

    ABSENT = ""
    QUEUED = "queued"
    """Entered, and on its way to the holder of the lease or back to its producer."""
    STARTED = "started"
    """It has passed the gate: its command may have run."""
    DONE = "done"
    """It has its result."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One row: ``scripts`` may lead from ``before`` to ``after``.

    With both the same it is the holder that changes: of a lease its worker, boot or epoch, of a call who carries it.
    No script makes a row whose ``scripts`` are empty: the key expires.
    """

    before: str
    after: str
    scripts: tuple[str, ...]
    why: str


#: What may find that a holder is gone: a recoverer, a producer that routes, the next process of the worker's name.
GONE = ("recover", "route", "heartbeat")
#: What gives slots to waiting trajectories.
SEATS = ("heartbeat", "release")

#: What makes another worker the holder while the one before lives.
PASSED = ("hand_over", "announce")

_L, _C = LeaseState, CallState

LEASE: tuple[Transition, ...] = (
    Transition(_L.ABSENT, _L.ASSIGNED, ("route", *SEATS), "first slot, epoch 1"),
    Transition(_L.ABSENT, _L.LOST, ("route",), "Redis lost its state, nobody came forward, no slot is free"),
    Transition(_L.ABSENT, _L.ACTIVE, ("announce",), "Redis lost its state and learns it from the holder"),
    Transition(_L.ABSENT, _L.CLOSED, ("close",), "closed before it had a slot"),
    Transition(_L.ASSIGNED, _L.ACTIVE, ("claim", "announce"), "the holder takes it up"),
    Transition(_L.ASSIGNED, _L.ASSIGNED, (*GONE, "hand_over"), "an heir, or a new workspace, epoch + 1"),
    Transition(_L.ASSIGNED, _L.CLOSING, ("close",), "its producer closes it"),
    Transition(_L.ASSIGNED, _L.CLOSED, ("release",), "its holder ends it"),
    Transition(_L.ASSIGNED, _L.LOST, GONE, "the holder is gone, nobody reaches its sandbox"),
    Transition(_L.ACTIVE, _L.ACTIVE, ("announce",), "a later holder of the same workspace comes forward"),
    Transition(_L.ACTIVE, _L.ASSIGNED, (*GONE, "hand_over"), "an heir, or a new workspace, epoch + 1"),
    Transition(_L.ACTIVE, _L.CLOSING, ("close",), "its producer closes it"),
    Transition(_L.ACTIVE, _L.CLOSED, ("release",), "the reaper ends it"),
    Transition(_L.ACTIVE, _L.LOST, GONE, "the holder is gone, nobody reaches its sandbox"),
    Transition(_L.CLOSING, _L.CLOSING, ("recover", "heartbeat", *PASSED), "an heir, epoch + 1"),
    Transition(_L.CLOSING, _L.CLOSED, ("release",), "its holder ends it after its calls"),
    Transition(_L.CLOSING, _L.CLOSED, ("recover", "heartbeat"), "the holder is gone, nobody reaches its sandbox"),
    Transition(_L.LOST, _L.ASSIGNED, ("route", *SEATS), "a new workspace, epoch + 1"),
    Transition(_L.LOST, _L.CLOSED, ("close",), "its producer closes it"),
    Transition(_L.LOST, _L.ABSENT, (), "call_ttl"),
    Transition(_L.CLOSED, _L.ABSENT, (), "call_ttl"),
)

CALL: tuple[Transition, ...] = (
    Transition(_C.ABSENT, _C.QUEUED, ("submit",), "its producer enters it"),
    Transition(_C.QUEUED, _C.QUEUED, ("submit",), "carried to the present holder"),
    Transition(_C.QUEUED, _C.QUEUED, (*GONE, *PASSED), "another holder: back to its producer"),
    Transition(_C.QUEUED, _C.STARTED, ("start",), "the holder passes the gate"),
    Transition(_C.QUEUED, _C.DONE, ("finish",), "ended before its start, e.g. rejected"),
    Transition(_C.QUEUED, _C.DONE, ("give_up",), "cancelled, or past its deadline"),
    Transition(_C.QUEUED, _C.DONE, ("release", "close"), "the trajectory ends: lost"),
    Transition(_C.QUEUED, _C.DONE, ("recover", "heartbeat", *PASSED), "another holder while closing: lost"),
    Transition(_C.STARTED, _C.STARTED, (*GONE, *PASSED), "it stays in its sandbox: the next holder asks for it"),
    Transition(_C.STARTED, _C.DONE, ("finish",), "the holder has its outcome"),
    Transition(_C.STARTED, _C.DONE, ("give_up",), "past its deadline: unknown"),
    Transition(_C.STARTED, _C.DONE, ("release",), "the trajectory ends: lost"),
    Transition(_C.STARTED, _C.DONE, GONE, "the workspace is gone: lost, or unknown where it ran outside"),
    Transition(_C.QUEUED, _C.ABSENT, (), "call_ttl: its producer is gone"),
    Transition(_C.STARTED, _C.ABSENT, (), "call_ttl: its producer is gone, and so is its holder"),
    Transition(_C.DONE, _C.ABSENT, (), "result_ttl"),
)

TABLES = {"lease": LEASE, "call": CALL}


def steps(table: tuple[Transition, ...]) -> Iterator[tuple[str, str, str]]:
    """Every (state before, script, state after) of ``table``."""
    for row in table:
        for script in row.scripts:
            yield (row.before, script, row.after)


_HEAD = """\
# States

How a lease and a call may change, and which script changes them. `python -m toolfleet.config.transitions` prints this
page from the table that the tests hold the scripts to. An arrow from a state to itself is a change of holder; one
without a script is a key that expires.
"""


def page() -> str:
    """The text of docs/states.md."""
    parts = [_HEAD, "## A lease", "", *_diagram(LEASE), "", "## A call in the ledger", "", *_diagram(CALL), ""]
    return "\n".join(parts)


def _diagram(table: tuple[Transition, ...]) -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    for row in table:
        by = f" ({', '.join(row.scripts)})" if row.scripts else ""
        yield f"    {row.before or '[*]'} --> {row.after or '[*]'}: {row.why.replace(':', ',')}{by}"
    yield "```"


if __name__ == "__main__":
    print(page(), end="")
