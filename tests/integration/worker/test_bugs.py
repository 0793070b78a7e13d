"""An error of our own is told as what it is: nobody waits for ever, and the worker goes on."""

import json
from pathlib import Path

from fleet_processes import worker

from toolfleet.config.contract import Fault, Status
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet

TESTS = Path(__file__).parents[2]


async def test_a_bug_ends_the_call_that_met_it_and_no_other(settings: Settings, redis_url: str) -> None:
    profiles = json.dumps({"default": {"backend": "buggy_backend:BuggyBackend", "warm": 0}})
    with worker("w1", redis_url, PYTHONPATH=str(TESTS), TOOLFLEET_PROFILES=profiles):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t, fleet.trajectory() as other:
            never = await t.terminal("echo x >> /tmp/n")
            assert (never.status, never.fault, never.executed) == (Status.FAILED, Fault.INFRASTRUCTURE, "no")
            assert never.error == "internal error: KeyError: 'a bug in a start'"
            assert (await t.terminal("echo x >> /tmp/n; cat /tmp/n")).stdout == "x\n"
            met = await t.terminal("trip")
            assert (met.status, met.fault, met.executed) == (Status.UNKNOWN, Fault.INFRASTRUCTURE, "unknown")
            assert met.error == "internal error: RuntimeError: a bug in a call"
            after = await t.terminal("cat /tmp/n")
            assert (after.status, after.stdout, after.workspace_generation) == (Status.OK, "x\n", 1)
            assert (await other.terminal("echo fine")).stdout == "fine\n"
