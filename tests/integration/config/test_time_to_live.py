"""How long keys live.

That they do not live for ever the fixture ``redis_url`` checks after every test; here, that it is the right one.
"""

from collections.abc import Awaitable, Callable

import pytest
from integration.config.rig import Rig

from toolfleet.config import keys
from toolfleet.config.answers import Holder
from toolfleet.config.contract import ToolCall


async def test_every_kind_of_key_has_a_time_to_live(rig: Rig) -> None:
    await rig.worker(slots=1)
    holder = await rig.hold()
    await rig.route("t2")
    await rig.submit(holder, rig.call())
    await rig.state.put_blob("0" * 64, b"tar")
    await rig.state.put_part("c9", b"content")
    await rig.state.bounce(rig.call())
    await rig.state.begin_start("spec", "a1", most=1, rate=1.0, ttl=60)
    await rig.saved(holder, "a")
    root = keys.root("test")
    found = {key.decode() async for key in rig.redis.scan_iter("*")}
    assert {key.removeprefix(root).split(":")[1] for key in found} == set(keys.KEYS)
    for key in found:
        assert 0 < await rig.redis.pttl(key) <= rig.settings.call_ttl * 1000, key


@pytest.mark.parametrize("how", ["finish", "give_up", "recover", "release"])
async def test_a_result_is_kept_for_as_long_as_results_are(how: str, rig: Rig, holder: Holder, call: ToolCall) -> None:
    await rig.running(holder, call)
    endings: dict[str, Callable[[], Awaitable[object]]] = {
        "finish": lambda: rig.finish(holder, call),
        "give_up": lambda: rig.give_up(call),
        "recover": lambda: rig.recover(),
        "release": lambda: rig.state.release("t1", holder),
    }
    await endings[how]()
    left = await rig.redis.pttl(rig.state.key("call", "c1"))
    assert 0 < left <= rig.settings.result_ttl * 1000


async def test_the_heartbeat_prolongs_the_leases_that_it_holds(rig: Rig, holder: Holder) -> None:
    for key in (rig.state.key("lease", "t1"), rig.state.key("leases", "w1"), rig.state.key("worker", "w1")):
        await rig.redis.pexpire(key, 5000)
    await rig.worker(slots=2, held=[("t1", 1)])
    for key in (rig.state.key("lease", "t1"), rig.state.key("leases", "w1"), rig.state.key("worker", "w1")):
        assert await rig.redis.pttl(key) > 6000, key


async def test_content_beside_the_ledger_is_there_until_it_is_dropped(rig: Rig) -> None:
    await rig.state.put_part("c1", b"\0\xff")
    assert 0 < await rig.redis.pttl(rig.state.key("part", "c1")) <= rig.settings.result_ttl * 1000
    assert await rig.state.part("c1") == b"\0\xff"
    for _ in range(2):
        await rig.state.drop_part("c1")
    assert await rig.state.part("c1") is None


async def test_an_archive_put_again_stays_longer_and_the_same(rig: Rig) -> None:
    await rig.state.put_blob("d", b"one")
    await rig.redis.pexpire(rig.state.key("blob", "d"), 5000)
    await rig.state.put_blob("d", b"one")
    assert await rig.redis.pttl(rig.state.key("blob", "d")) > 6000
    assert await rig.state.blob("d") == b"one"
    assert await rig.state.blob("other") is None
