"""What a replay came to, in one table."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from toolfleet.config.contract import Fault, Timing
from toolfleet.producer.replay import Line, Played


@dataclass
class Summary:
    """Counts calls as they end; holds numbers only, so its size does not grow with what commands print."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    exit_codes: Counter[int] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    timings: list[tuple[float, float, float, float]] = field(default_factory=list)
    problems: list[Line] = field(default_factory=list)
    compared: int = 0
    matched: int = 0
    warm_hits: int = 0
    cold_starts: int = 0

    @property
    def infrastructure_failed(self) -> bool:
        """A call met its end through the infrastructure's fault."""
        return any(fault == Fault.INFRASTRUCTURE for _, fault in self.statuses)

    def add(self, played: Played) -> None:
        """Count one call."""
        result = played.result
        self.statuses[result.status, result.fault] += 1
        if result.exit_code is not None:
            self.exit_codes[result.exit_code] += 1
        if result.worker_id:
            self.workers[result.worker_id] += 1
            self.timings.append(_spent(result.timing))
        if played.call.expect is not None:
            self.compared += 1
            self.matched += matches(played)

    def table(self, seconds: float) -> Table:
        """The summary of a replay that took ``seconds``."""
        total = self.statuses.total()
        table = Table(title=f"{total} calls in {seconds:.1f} s", show_header=False, title_justify="left")
        for (status, fault), count in sorted(self.statuses.items()):
            table.add_row(f"status {status}", f"{count}  (fault: {fault})")
        if self.exit_codes:
            codes = ", ".join(f"{code}: {count}" for code, count in sorted(self.exit_codes.items()))
            table.add_row("exit codes", codes)
        if self.compared:
            table.add_row("as recorded", f"{self.matched} of {self.compared} comparable calls")
        for index, name in enumerate(("queued", "waited", "started", "ran")):
            values = [timing[index] for timing in self.timings]
            if values:
                p50, p95 = percentiles(values)
                table.add_row(f"{name} p50 / p95", f"{p50 * 1000:.1f} / {p95 * 1000:.1f} ms")
        table.add_row("warm hits", f"{self.warm_hits} of {self.warm_hits + self.cold_starts} sandboxes")
        table.add_row("calls per worker", ", ".join(f"{w}: {n}" for w, n in sorted(self.workers.items())) or "none")
        for line in self.problems[:20]:
            table.add_row(f"[red]line {line.number}", line.problem)
        return table


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 50th and 95th percentile."""
    if len(values) == 1:
        return values[0], values[0]
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]


def matches(played: Played) -> bool:
    """Exit code and stdout are as recorded; lines in any order, for that is the file system's own."""
    expect = played.call.expect or {}
    same_lines = Counter(played.result.stdout.splitlines()) == Counter(str(expect.get("stdout", "")).splitlines())
    return same_lines and played.result.exit_code == expect.get("exit_code")


def _spent(timing: Timing) -> tuple[float, float, float, float]:
    return timing.queued, timing.waited, timing.started, timing.ran
