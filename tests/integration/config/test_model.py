"""The scripts against a model of them, whatever the order: see `fleet_machine`."""

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from integration.config.fleet_history import LEGAL
from integration.config.fleet_machine import FleetMachine

#: Verdicts that a run which deserves the name has seen.
EXPECTED: set[tuple[str, ...]] = {
    *(("route", v) for v in ("assigned", "held", "waiting", "closed", "unserved", "forgotten")),
    *(("heartbeat", v) for v in ("lost", "unknown", "orphaned", "closing", "forgotten")),
    *(("hand_over", v) for v in ("True", "False")),
    *(("announce", v) for v in ("True", "False")),
    *(("renounce", v) for v in ("destroy", "leave")),
    *(("forsake", v) for v in ("told", "nothing")),
    *(("fork", v) for v in ("True", "False")),
    ("claim", "started"),
    *(("submit", v) for v in ("queued", "again", "done", "moved", "closed")),
    *(("start", v) for v in ("go", "duplicate", "stale", "missing")),
    *(("finish", v) for v in ("done", "late", "stale")),
    *(("give_up", v) for v in ("ended", "started", "done", "missing")),
    *(("stream", v) for v in ("result", "moved", "placed")),
}
#: Steps that take more accidents than a short run can count on; each has a test of its own.
RARE: set[tuple[str, ...]] = {
    # A holder that was cut off announces itself, after one that came later has lost its lease again to an heir.
    ("lease", "assigned", "announce", "active"),
    # The heir is handed over, or dies, before it has claimed.
    ("lease", "assigned", "hand_over", "assigned"),
    ("lease", "assigned", "recover", "assigned"),
    # As below, and the producer has closed the trajectory and has calls on their way.
    ("lease", "closing", "hand_over", "closing"),
    ("call", "queued", "hand_over", "done"),
    ("call", "queued", "announce", "done"),
    # A waiting room of trajectories that nobody has held, at the end of another one.
    ("lease", "", "release", "assigned"),
}


@pytest.mark.timeout(600)  # a failure is first made small, which takes a while
def test_the_scripts_do_what_the_model_does_whatever_the_order(redis_url: str) -> None:
    seen: Counter[tuple[str, ...]] = Counter()
    run_state_machine_as_test(
        lambda: FleetMachine(redis_url, seen),  # type: ignore[arg-type]  # it takes any factory
        settings=settings(
            max_examples=240,
            stateful_step_count=40,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )
    never = EXPECTED - set(seen)
    assert len(never) <= 4, f"too few interleavings: never saw {never}"
    unmade = {(table, *step) for table, legal in LEGAL.items() for step in legal} - set(seen) - RARE
    assert len(unmade) <= 8, f"too few interleavings: no script made {sorted(map(str, unmade))}"
