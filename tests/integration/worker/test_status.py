"""``toolfleet status --here``: what a supervisor asks about the workers of its own host."""

import os
import shutil
import subprocess

from fleet_processes import TOOLFLEET, wait_until, worker
from services import missing


def status(redis_url: str, *prefix: str) -> "subprocess.CompletedProcess[str]":
    """What it says about the fleet ``test``."""
    env = {**os.environ, "TOOLFLEET_REDIS_URL": redis_url, "TOOLFLEET_FLEET": "test", "COLUMNS": "200"}
    command = [*prefix, *TOOLFLEET, "status", "--here"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_only_a_live_worker_of_this_host_counts(redis_url: str) -> None:
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    assert status(redis_url).returncode == 1
    with worker("w1", redis_url):
        wait_until(lambda: status(redis_url).returncode == 0)
        assert "w1" in status(redis_url).stdout
        elsewhere = status(redis_url, "bwrap", "--unshare-uts", "--hostname", "elsewhere", "--dev-bind", "/", "/", "--")
        assert (elsewhere.returncode, "w1" in elsewhere.stdout) == (1, False), elsewhere.stderr
    assert status(redis_url).returncode == 1
