"""Failures before a call's start are retried with backoff; a call that started never is."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from fleet_processes import worker

from toolfleet.config.contract import Fault, Status
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet

TESTS = Path(__file__).parents[2]


def flaky(failures: int) -> dict[str, str]:
    """Environment of a worker whose first starts fail."""
    return {
        "PYTHONPATH": str(TESTS),
        "FLAKY_FAILURES": str(failures),
        "TOOLFLEET_PROFILES": json.dumps({"default": {"backend": "flaky_backend:FlakyBackend", "warm": 0}}),
        "TOOLFLEET_RETRIES": json.dumps({"max": 3, "base": 0.01, "jitter": 0.01}),
    }


async def test_a_start_that_fails_twice_succeeds_at_the_third_try(settings: Settings, redis_url: str) -> None:
    with worker("w1", redis_url, **flaky(2)):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            result = await t.terminal("echo hi")
            assert (result.status, result.stdout, result.attempts) == (Status.OK, "hi\n", 3)
            assert (await t.terminal("echo hi")).attempts == 1


async def test_when_retries_are_used_up_the_infrastructure_is_to_blame(settings: Settings, redis_url: str) -> None:
    with worker("w1", redis_url, **flaky(4)):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            result = await t.terminal("echo hi")
            assert (result.status, result.fault, result.executed) == (Status.FAILED, Fault.INFRASTRUCTURE, "no")
            assert (result.attempts, result.error) == (4, "no sandbox: the engine is busy")
            assert (await t.terminal("echo hi")).status is Status.OK


async def test_a_sandbox_that_dies_is_told_once_and_the_call_is_not_run_again(
    settings: Settings, redis_url: str
) -> None:
    with worker("w1", redis_url) as process:
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            await t.terminal("echo kept > /tmp/f")
            kill_runners(process.pid)
            told: Any = await t.terminal("cat /tmp/f")
            assert (told.status, told.fault) == (Status.LOST, Fault.INFRASTRUCTURE)
            after = await t.terminal("cat /tmp/f")
            assert (after.status, after.exit_code, after.workspace_generation) == (Status.OK, 1, 2)


def kill_runners(worker_pid: int) -> None:
    """Kill every sandbox of a worker from outside, as an engine that crashes would."""
    folder = Path(f"/proc/{worker_pid}/environ").read_bytes().split(b"TOOLFLEET_RUNTIME_DIR=")[1].split(b"\0")[0]
    for record in Path(os.fsdecode(folder)).glob("sandboxes/*/*.json"):
        found = json.loads(record.read_text())
        if found["runner"]:  # None while a warm one is still being made
            os.kill(int(found["runner"]["pid"]), signal.SIGKILL)
