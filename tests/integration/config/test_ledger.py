"""How calls get in and begin: submit and start, each verdict on a real Redis."""

import asyncio

from integration.config.rig import CAUSE, HOST, Rig

from toolfleet.config.answers import Holder
from toolfleet.config.contract import ToolCall


class TestSubmit:
    async def test_queued_with_the_holder(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        assert await rig.submit(holder, call) == ["queued"]
        assert await rig.open_calls() == ["c1"]
        assert await rig.state.body("c1") == call.model_dump_json().encode()

    async def test_again_while_it_is_on_its_way(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        assert await rig.submit(holder, call) == ["again"]
        await rig.start(holder, call)
        assert await rig.submit(holder, call) == ["again"]
        assert (await rig.fields("call", "c1"))["state"] == "started", "it does not become queued again"
        assert await rig.open_calls() == ["c1"]

    async def test_again_by_another_producer_brings_the_result_there(
        self, rig: Rig, holder: Holder, call: ToolCall
    ) -> None:
        """A trainer that restarts submits its calls again under their ids."""
        await rig.running(holder, call)
        await rig.state.producer_gone("p1")
        await rig.producer("p2")
        assert await rig.submit(holder, call, producer="p2") == ["again"]
        await rig.finish(holder, call)
        assert [result.call_id for result in await rig.results("p2")] == ["c1"]

    async def test_done_delivers_the_result_once_more(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        await rig.finish(holder, call)
        (first,) = await rig.results()
        assert await rig.submit(holder, call) == ["done"]
        assert await rig.results() == [first]

    async def test_moved_when_the_holder_is_another_one(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        assert await rig.submit(holder._replace(epoch=2), call) == ["moved"]
        assert await rig.submit(holder._replace(boot="other"), call) == ["moved"]
        assert await rig.submit(holder, rig.call("c2", "t-without-lease")) == ["moved"]
        assert await rig.fields("call", "c1") == {}, "a call that was turned away leaves nothing behind"

    async def test_moved_when_the_holder_is_gone(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.recover()
        assert await rig.submit(holder, call) == ["moved"]

    async def test_carried_anew_after_a_move(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        await rig.recover()
        await rig.worker("w2")
        there = await rig.hold()
        assert await rig.submit(there, call) == ["queued"]
        assert await rig.start(holder, call) == ["stale"]
        assert await rig.start(there, call) == ["go"]
        assert await rig.open_calls() == ["c1"]

    async def test_closed_while_closing_and_after(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.state.close("t1")
        assert await rig.submit(holder, call) == ["closed"]
        await rig.state.release("t1", holder)
        assert await rig.submit(holder, call) == ["closed"]
        assert await rig.fields("call", "c1") == {}

    async def test_a_call_that_entered_before_the_close_is_still_on_its_way(
        self, rig: Rig, holder: Holder, call: ToolCall
    ) -> None:
        """Else a repeated submit would tell its caller that it never entered, while it runs."""
        await rig.submit(holder, call)
        await rig.state.close("t1")
        assert await rig.submit(holder, call) == ["again"]
        assert await rig.start(holder, call) == ["go"]
        assert await rig.submit(holder, call) == ["again"]
        assert await rig.finish(holder, call) == ["done"]
        await rig.state.release("t1", holder)
        assert await rig.submit(holder, call) == ["done"]

    async def test_each_call_of_a_batch_gets_its_own_verdict(self, rig: Rig, holder: Holder) -> None:
        await rig.running(holder, rig.call("done"))
        await rig.finish(holder, rig.call("done"))
        await rig.submit(holder, rig.call("again"))
        batch = [rig.call("new"), rig.call("done"), rig.call("away", "t9"), rig.call("again")]
        assert await rig.submit(holder, *batch) == ["queued", "done", "moved", "again"]

    async def test_the_index_keeps_the_order_of_entry(self, rig: Rig, holder: Holder) -> None:
        calls = [rig.call(f"c{n:03}") for n in reversed(range(200))]
        await rig.submit(holder, *calls[:120])
        await rig.submit(holder, *calls[120:])
        assert await rig.open_calls() == [call.call_id for call in calls]

    async def test_a_call_keeps_its_place_when_it_is_carried_anew(self, rig: Rig, holder: Holder) -> None:
        first, second = rig.call("z"), rig.call("a")
        await rig.submit(holder, first, second)
        await rig.recover()
        await rig.worker("w2")
        there = await rig.hold()
        await rig.submit(there, second)
        await rig.submit(there, first)
        assert await rig.open_calls() == ["z", "a"]


class TestStart:
    async def test_go_once_and_duplicate_ever_after(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        assert await rig.start(holder, call, attempt="a1") == ["go"]
        assert await rig.start(holder, call, attempt="a2") == ["duplicate"]
        await rig.finish(holder, call)
        assert await rig.start(holder, call, attempt="a3") == ["duplicate"]
        assert await rig.start(holder, call, attempt="a1") == ["duplicate"], (
            "not even the same attempt, once it is done"
        )

    async def test_the_same_attempt_may_ask_twice(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        """Its first answer was lost with the connection."""
        await rig.submit(holder, call)
        assert await rig.start(holder, call, attempt="a1") == ["go"]
        assert await rig.start(holder, call, attempt="a1") == ["go"]

    async def test_the_same_attempt_does_not_pass_once_the_call_is_another_holders(
        self, rig: Rig, call: ToolCall
    ) -> None:
        await rig.worker("w1", reaches=[HOST])
        holder = await rig.furnished()
        await rig.running(holder, call)
        await rig.worker("w2", reaches=[HOST])
        await rig.recover("w1")
        assert await rig.start(holder, call) == ["duplicate"]

    async def test_two_messages_with_one_call_start_it_once(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        found = await rig.state.start(holder.boot, [(call, 1, "a1"), (call, 1, "a2")])
        assert [verdict for verdict, _ in found] == ["go", "duplicate"]

    async def test_stale_epoch(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        assert await rig.start(holder._replace(epoch=2), call) == ["stale"]
        assert await rig.start(holder, call) == ["go"]

    async def test_stale_boot(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        assert await rig.start(holder._replace(boot="other"), call) == ["stale"]

    async def test_stale_once_the_worker_was_recovered(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        await rig.recover()
        assert await rig.start(holder, call) == ["stale"]

    async def test_missing(self, rig: Rig, holder: Holder) -> None:
        assert await rig.start(holder, rig.call("never-submitted")) == ["missing"]

    async def test_a_call_given_up_never_starts(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        await rig.give_up(call)
        assert await rig.start(holder, call) == ["duplicate"]

    async def test_tells_how_long_ago_it_was_submitted_also_after_a_move(
        self, rig: Rig, holder: Holder, call: ToolCall
    ) -> None:
        await rig.submit(holder, call)
        await rig.redis.hincrby(rig.state.key("call", "c1"), "queued_at", -5000)
        await rig.recover()
        await rig.worker("w2")
        there = await rig.hold()
        await rig.submit(there, call)
        ((verdict, ago),) = await rig.state.start(there.boot, [(call, there.epoch, "a")])
        assert verdict == "go"
        assert 5.0 <= ago < 60.0


async def test_many_at_once_start_a_call_once_and_deliver_it_once(rig: Rig) -> None:
    """The races that Lua rules out, on several connections at the same time."""
    await rig.worker("w1", slots=50)
    places = await asyncio.gather(*(rig.route(f"t{n % 10}") for n in range(100)))
    assert {(place.holder.epoch if place.holder else 0) for place in places} == {1}
    assert len(await rig.leases()) == 10
    holder = await rig.hold("t1")
    call = rig.call("c1", "t1")
    await asyncio.gather(*(rig.submit(holder, call) for _ in range(20)))
    started = await asyncio.gather(*(rig.start(holder, call, attempt=f"a{n}") for n in range(50)))
    assert started.count(["go"]) == 1
    ended = await asyncio.gather(
        *(rig.finish(holder, call, output=f"{n}") for n in range(20)),
        *(rig.give_up(call) for _ in range(5)),
        rig.state.recover("w1", "w1-boot", CAUSE),
    )
    assert len(await rig.results()) <= 1
    assert [verdict for verdict in ended if verdict == ["done"]] in ([], [["done"]])
