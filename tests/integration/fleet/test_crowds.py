"""Many trajectories at once: all finish, none waits for another, and each keeps its own order."""

import asyncio
import time

import pytest

from toolfleet.config.errors import FleetSaturated
from toolfleet.producer import Fleet

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_200_trajectories_on_8_slots_all_finish(fleet: Fleet) -> None:
    async def rollout(number: int) -> list[str]:
        async with fleet.trajectory() as t:
            await t.terminal(f"echo {number} > /tmp/me")
            return [(await t.terminal("cat /tmp/me")).stdout.strip() for _ in range(3)]

    found = await asyncio.gather(*(rollout(n) for n in range(200)))
    assert found == [[str(n)] * 3 for n in range(200)]


async def test_a_quick_call_does_not_wait_for_anothers_sleep(fleet: Fleet) -> None:
    async with fleet.trajectory() as slow, fleet.trajectory() as quick:
        await slow.terminal("true")
        await quick.terminal("true")
        sleeping = asyncio.create_task(slow.terminal("sleep 5"))
        for _ in range(10):
            await quick.terminal("echo hi")
        assert not sleeping.done()
        await sleeping


async def test_calls_of_one_trajectory_keep_their_order_under_mixed_timeouts(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        commands = [f"sleep 0.{n % 3}; echo {n} >> /tmp/order" for n in range(12)]
        await asyncio.gather(*(t.terminal(c, timeout=5 + n % 4 * 100) for n, c in enumerate(commands)))
        assert (await t.terminal("cat /tmp/order")).stdout.split() == [str(n) for n in range(12)]


async def test_parallel_calls_overlap(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        meet = "touch /tmp/{0}; while ! test -e /tmp/{1}; do sleep 0.05; done"
        await asyncio.gather(
            t.call("terminal", {"command": meet.format("a", "b")}, timeout=20, parallel=True),
            t.call("terminal", {"command": meet.format("b", "a")}, timeout=20, parallel=True),
        )
        assert (await t.terminal("ls /tmp/a /tmp/b")).exit_code == 0


async def test_who_waits_too_long_for_a_slot_is_told_so_by_type() -> None:
    async with Fleet.connect(workers=1, slots=1, wait_timeout=0.5, heartbeat=0.2) as fleet, fleet.trajectory() as first:
        await first.terminal("true")
        async with fleet.trajectory() as second:
            with pytest.raises(FleetSaturated, match="wait_timeout"):
                await second.terminal("true")
            await first.close()
            assert (await second.terminal("echo mine")).stdout == "mine\n"


async def test_a_waiting_trajectory_may_be_given_up(fleet: Fleet) -> None:
    async with Fleet.connect(workers=1, slots=1, heartbeat=0.2) as small, small.trajectory() as first:
        await first.terminal("true")
        second = small.trajectory()
        waiting = asyncio.create_task(second.terminal("true"))
        while not await small.state.waiting():
            await asyncio.sleep(0.01)
        waiting.cancel()
        await second.close()
        assert await small.state.waiting() == 0


async def test_nothing_of_a_call_lingers_in_producer_or_redis(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        await t.terminal("true")
        assert not fleet._in_flight.entered(t, 1)
    deadline = time.monotonic() + 10
    while any(int(w["used"]) for w in (await fleet.state.workers()).values()) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert [w["used"] for w in (await fleet.state.workers()).values()] == ["0", "0"]
    assert not [key async for key in fleet.state.redis.scan_iter("*:calls:*")]
