"""What takes long, is silent or is closed meanwhile: nothing is cut short, run again, or waited for by a thread."""

import asyncio
import threading

import pytest

from toolfleet.config.contract import Fault, Status
from toolfleet.config.errors import TrajectoryClosed
from toolfleet.producer import Fleet, ToolResult

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_call_longer_than_half_a_minute_comes_to_its_own_end(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal("sleep 32; echo done", timeout=60)
    assert (r.status, r.stdout, r.exit_code) == (Status.OK, "done\n", 0)


@pytest.mark.parametrize("exit_code", [1, 124, 130, 137, 255])
async def test_a_silent_failure_is_the_commands_own_and_is_not_run_again(fleet: Fleet, exit_code: int) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal(f"echo x >> /tmp/runs; exit {exit_code}")
        assert (r.status, r.fault, r.exit_code, r.output) == (Status.OK, Fault.NONE, exit_code, "")
        assert (await t.terminal("cat /tmp/runs")).stdout == "x\n"


async def test_endings_of_all_kinds_beside_one_another_stay_each_calls_own(fleet: Fleet) -> None:
    kinds: dict[str, tuple[str, dict[str, object], float | None]] = {
        "fine": ("terminal", {"command": "echo fine"}, None),
        "wrong": ("terminal", {"command": "exit 3"}, None),
        "late": ("terminal", {"command": "echo began; sleep 60"}, 1),
        "murder": ("terminal", {"command": "kill -9 -1"}, None),
        "strange": ("terminla", {"command": "true"}, None),
        "bad": ("terminal", {"comand": "true"}, None),
    }

    async def rollout(kind: str) -> tuple[str, ToolResult]:
        name, arguments, timeout = kinds[kind]
        async with fleet.trajectory() as t:
            return kind, await t.call(name, arguments, timeout=timeout)

    for kind, r in await asyncio.gather(*(rollout(kind) for kind in kinds for _ in range(4))):
        match kind:
            case "fine":
                assert (r.status, r.stdout, r.exit_code) == (Status.OK, "fine\n", 0)
            case "wrong":
                assert (r.status, r.exit_code) == (Status.OK, 3)
            case "late":
                assert (r.status, r.stdout, r.exit_code) == (Status.TIMEOUT, "began\n", 124)
                assert r.error
            case "murder":
                assert (r.status, r.fault) == (Status.OK, Fault.NONE)
            case _:
                assert (r.status, r.executed) == (Status.REJECTED, "no"), r
                assert r.error


async def test_closing_waits_for_the_call_that_runs_and_lets_no_other_in(fleet: Fleet) -> None:
    t = fleet.trajectory()
    await t.terminal("echo kept > /tmp/f")
    running = asyncio.create_task(
        t.terminal("touch /tmp/began; until test -e /tmp/go; do sleep 0.01; done; cat /tmp/f")
    )
    while (await t.call("terminal", {"command": "test -e /tmp/began"}, parallel=True)).exit_code:
        pass
    opening = asyncio.create_task(t.call("terminal", {"command": "sleep 0.5; touch /tmp/go"}, parallel=True))
    while await fleet.state.redis.zcard(fleet.state.key("calls", t.id)) < 2:
        await asyncio.sleep(0.01)
    await t.close()
    with pytest.raises(TrajectoryClosed):
        await t.terminal("true")
    assert (await running).stdout == "kept\n"
    assert (await opening).status is Status.OK
    while await fleet.state.redis.hget(fleet.state.key("lease", t.id), "state") != b"closed":
        await asyncio.sleep(0.02)


async def test_calls_in_flight_need_no_threads(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        await t.terminal("true")
        before = threading.active_count()
        waits = "touch /tmp/at.$$; until test -e /tmp/go; do sleep 0.05; done"
        calls = [asyncio.create_task(t.call("terminal", {"command": waits}, parallel=True)) for _ in range(50)]
        count = {"command": "ls /tmp | grep -c at"}
        while int((await t.call("terminal", count, parallel=True)).stdout) < 50:
            pass
        assert threading.active_count() == before
        await t.call("terminal", {"command": "touch /tmp/go"}, parallel=True)
        assert {r.status for r in await asyncio.gather(*calls)} == {Status.OK}
