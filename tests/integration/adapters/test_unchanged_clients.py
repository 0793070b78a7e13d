"""F13: programs that were written for the predecessors run when their imports are changed, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from fleet_processes import wait_until, worker

from toolfleet.config.keys import key

CLIENTS = Path(__file__).parent / "clients"
TESTS = Path(__file__).parents[2]

#: What a user of the predecessors writes, and what takes its place.
IMPORTS = {
    "from tools.terminal_hecate import": "from toolfleet.producer.adapters.hecate import",
    "from environments.tool_context import": "from toolfleet.producer.adapters.tool_context import",
    # The loop itself is the user's own; the tests have one with its interface.
    "from environments.agent_loop import": "from integration.adapters.scripted_loop import",
    "from environments.dispatch import ": "from toolfleet.producer.adapters.handler import ",
}

PRINTED = {
    "hecate": """\
True
{'output': 'wrote', 'exit_code': 0, 'error': None} {'output': 'out\\nerr', 'exit_code': 2, 'error': None} \
124 'begun\\n\\nCommand timed out after 1 seconds' a ''
{'output': 'wrote', 'exit_code': 0, 'error': None} {'output': 'out\\nerr', 'exit_code': 2, 'error': None} \
124 'begun\\n\\nCommand timed out after 1 seconds' b ''
default task
""",
    "environment": """\
solves 1.0 ['None', 'None']
fails 0.0 ['None', "Unknown tool 'no_such_tool'."]
""",
}

#: A fleet with one worker, of its own or the test's; the profile of the VMs is one that this machine can serve.
ENV = {"TOOLFLEET_FLEET": "test", "TOOLFLEET_PROFILES": json.dumps({"default": {}, "hecate": {}})}


def run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the client prints."""
    for variable, value in ENV.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    written = (CLIENTS / f"{name}.py").read_text("utf-8")
    for old, new in IMPORTS.items():
        written = written.replace(old, new)
    (tmp_path / "client.py").write_text(written)
    done = subprocess.run([sys.executable, "client.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", PRINTED)
def test_a_client_runs_on_a_private_fleet(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(name, tmp_path, monkeypatch) == PRINTED[name]


def test_the_end_of_a_process_ends_its_sandboxes(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H11, defect 48: nobody has to clean up, and no idle limit or orphan timeout is waited for."""
    with (
        worker("w1", redis_url, slots="4", TOOLFLEET_ORPHAN_TIMEOUT="3600", **ENV),
        redis.Redis.from_url(redis_url) as raw,
    ):
        monkeypatch.setenv("TOOLFLEET_REDIS_URL", redis_url)
        assert run("hecate", tmp_path, monkeypatch) == PRINTED["hecate"]
        wait_until(lambda: raw.scard(key("test", "leases", "w1")) == 0)
