"""An error of our own is told as what it is: nobody waits for ever, and the worker goes on."""

import json
from pathlib import Path

from fleet_processes import worker

from toolfleet.config.celery_app import envelope, make_app
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


async def test_messages_that_no_producer_would_send_do_no_harm(settings: Settings, redis_url: str) -> None:
    """Whoever can write to Redis is trusted, but may be another version of toolfleet, or a hand at redis-cli."""
    with worker("w1", redis_url):
        async with Fleet.connect(settings) as fleet, fleet.trajectory("t1") as t:
            assert (await t.terminal("echo before")).stdout == "before\n"
            boot = (await fleet.state.workers())["w1"]["boot"]
            addressed = envelope(make_app(redis_url, fleet.state.fleet), fleet.state.fleet, "w1")
            items = json.dumps(json.dumps([{"op": "call"}, {"op": "cancel"}, {}, 7, None]))[1:-1]
            short = addressed.tail.replace("], {}", ", 1], {}", 1)
            messages = [
                addressed.head + items + addressed.tail,
                addressed.head + "17" + addressed.tail,
                addressed.head + "null" + addressed.tail,
                addressed.head + items + short,
                addressed.head + "{" + addressed.tail,
            ]
            for message in messages:
                await fleet.state.redis.lpush(addressed.queue, message)
            assert (await t.terminal("echo after")).stdout == "after\n"
            assert (await fleet.state.workers())["w1"]["boot"] == boot
