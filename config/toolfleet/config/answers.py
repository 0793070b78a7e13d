"""What the scripts answer, typed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from toolfleet.config.contract import Beginning, ToolResult


class Holder(NamedTuple):
    """Who serves a trajectory: the process (``boot``) of a worker, in one ``epoch`` of the lease."""

    worker: str
    boot: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Route:
    """Answer of ``route``; ``holder`` is set for the verdicts ``held`` and ``assigned``."""

    verdict: str
    holder: Holder | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker must know of a lease that it takes up."""

    profile: str
    beginning: Beginning
    generation: int
    lost: str
    producer: str
    sweep: str
    used: bool
    """Something has started in the workspace."""
    age: float
    """Seconds since the trajectory got its slot."""
    sandbox: dict[str, str] | None
    """Where the workspace is, when an earlier holder has made one."""
    origin: str
    """The snapshot from which its first workspace has yet to start; empty for none."""
    started: list[str]
    """Ids of the calls that an earlier holder started and nobody has ended, oldest first."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Answer of ``heartbeat``."""

    lost: list[str]
    unknown: list[tuple[str, int]]
    orphaned: list[str]
    closing: list[str]
    forgotten: list[str]


class Renounced(NamedTuple):
    """Answer of ``renounce``."""

    destroy: bool
    generation: int


class Finished(NamedTuple):
    """One result to record."""

    result: ToolResult
    epoch: int


def text(value: Any) -> str:
    """A value from Redis as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def holder(fields: Sequence[Any]) -> Holder | None:
    """The holder that an answer names: worker, boot, epoch; None when it is empty."""
    if not fields:
        return None
    worker, boot, epoch = map(text, fields[:3])
    return Holder(worker, boot, int(epoch))
