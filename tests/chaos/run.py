"""The run: trajectories work while faults happen, and at the end everything is counted.

``python -m chaos`` (from ``tests/``, or ``make chaos``) prints the table; its exit status is 1 after a violation.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from chaos.faults import KINDS, Faults
from chaos.ground import FLEET, TIMES, Ground, Said, ground
from chaos.producer import Plan
from toolfleet.config import keys
from toolfleet.config.contract import Status

#: Of these a run has at least one each; the others are drawn from all but the last.
ONCE = ("kill -9 a producer",)
#: Seconds in which everything must be gone after the last trajectory was closed.
TIDY = 90.0


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    trajectories: int = 60
    calls: int = 50
    workers: int = 4
    faults: int = 20
    longest: float = 1.5
    pace: tuple[float, float] = (1.0, 3.5)
    """Seconds between two faults, at least and at most."""


@dataclass
class Report:
    """What happened."""

    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    recovered: list[float] = field(default_factory=list)
    """Seconds that calls took whose lease changed hands."""
    lost: set[str] = field(default_factory=set)
    unexplained: list[str] = field(default_factory=list)
    """Losses of trajectories whose sandbox nobody had killed."""
    violations: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What was still there at the end."""

    @property
    def ok(self) -> bool:
        """Nothing that must not happen has happened."""
        return not (self.violations or self.unexplained or self.left)

    def table(self) -> Table:
        """All of it, to be printed."""
        shown = Table("", "count", title="chaos", title_justify="left")
        for name, count in self.faults.items():
            shown.add_row(f"fault: {name}", str(count))
        for name in ("sent twice", "replies dropped"):
            shown.add_row(name, str(self.statuses[name]))
        for status in Status:
            if self.statuses[status] or status in (Status.OK, Status.LOST, Status.UNKNOWN):
                shown.add_row(f"calls {status}", str(self.statuses[status]))
        shown.add_row("calls whose lease changed hands", str(len(self.recovered)))
        shown.add_row("trajectories told of a loss", str(len(self.lost)))
        shown.add_row("of them without a killed sandbox", str(len(self.unexplained)))
        shown.add_row("left behind", str(len(self.left)))
        shown.add_row("violations", str(len(self.violations)))
        return shown


def run(size: Size, seed: int) -> Report:
    """One run from beginning to end."""
    report, chance = Report(), random.Random(seed)
    with ground(slots=size.trajectories // 2) as place:
        for number in range(1, size.workers + 1):
            place.start_worker(f"w{number}")
        _until(lambda: len(place.healthy()) == size.workers, 60, "the workers did not come up")
        for number in (1, 2):
            place.start_producer(_plan(place, size, seed, f"p{number}"))
        _until(lambda: len(place.leased()) >= size.trajectories // 2, 60, "the trajectories did not begin")
        faults = Faults(place, chance)
        for name in _schedule(size, chance):
            time.sleep(chance.uniform(*size.pace))
            _inject(faults, name, report)
            if name in ONCE:
                place.start_producer(_plan(place, size, seed, "p3"))
        faults.settle()
        _until(lambda: all(said.process.poll() is not None for said in place.producers), 600, "a producer hangs")
        for said in place.producers:
            said.listener.join()
        _count(place.producers, faults, report)
        _look_for_leftovers(place, report)
    return report


def _plan(place: Ground, size: Size, seed: int, prefix: str) -> Plan:
    return Plan(
        place.url, FLEET, TIMES, prefix, size.trajectories // 2, size.calls, seed, size.longest, twice=10, drop=50
    )


def _schedule(size: Size, chance: random.Random) -> list[str]:
    """Every kind at least once where there is room, in random order."""
    names = list(KINDS)
    drawn = [name for name in names if name not in ONCE]
    chosen = names + [chance.choice(drawn) for _ in range(size.faults - len(names))]
    chance.shuffle(chosen)
    return chosen


def _inject(faults: Faults, name: str, report: Report) -> None:
    """Wait until the fleet can bear it; a run that is over has nothing more to be hurt."""
    ends = time.monotonic() + 60
    while not faults.inject(name):
        if time.monotonic() > ends or all(said.process.poll() is not None for said in faults.ground.producers):
            return
        time.sleep(0.2)
    report.faults[name] += 1


def _count(producers: list[Said], faults: Faults, report: Report) -> None:
    for said in producers:
        if said.process.returncode != 0 and not said.killed:
            report.violations.append(f"a producer ended with {said.process.returncode}")
        for line in said.lines:
            kind = line.pop("kind")
            if kind == "violation":
                report.violations.append(str(line))
            elif kind == "end":
                report.statuses.update(line["statuses"])
            elif kind == "recovered":
                report.recovered.append(line["took"])
            elif kind == "lost":
                report.lost.add(line["trajectory"])
                if line["trajectory"] not in faults.killed_sandboxes_of:
                    report.unexplained.append(str(line))
            elif kind in ("unknown", "failed", "timeout", "cancelled", "rejected"):
                report.unexplained.append(f"{kind}: {line}")


def _look_for_leftovers(place: Ground, report: Report) -> None:
    """When all trajectories are closed or reaped there are warm sandboxes, and nothing else."""

    def left() -> list[str]:
        held = [f"{name} holds {place.held(name)} leases" for name in place.workers if place.held(name)]
        warm = len(place.workers)
        there = len(place.sandboxes())
        return held + ([f"{there} sandboxes, {warm} of them warm"] if there > warm else [])

    ends = time.monotonic() + TIDY
    while left() and time.monotonic() < ends:
        time.sleep(0.2)
    report.left += left()
    for name in place.redis.scan_iter("*"):
        if place.redis.ttl(name) == -1:
            report.left.append(f"the key {name} has no TTL")
    open_calls: Any = list(place.redis.scan_iter(keys.key(FLEET, "calls", "*")))
    report.left += [f"{name} has open calls" for name in open_calls]


def _until(fact: Any, seconds: float, otherwise: str) -> None:
    ends = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > ends:
            raise RuntimeError(otherwise)
        time.sleep(0.1)
