"""A short chaos run; ``make chaos`` has the long one."""

import shutil

import pytest
from services import missing

from chaos.run import Size, run
from toolfleet.producer.embedded import find_redis_server


@pytest.mark.timeout(300)
def test_a_short_run_violates_nothing() -> None:
    if shutil.which("bwrap") is None or find_redis_server() is None:
        missing("bubblewrap and redis-server")
    report = run(Size(trajectories=12, calls=12, workers=3, faults=8, pace=(0.5, 1.5)), seed=1)
    assert report.ok, [*report.violations, *report.unexplained, *report.left]
    assert sum(report.faults.values()) >= 6
