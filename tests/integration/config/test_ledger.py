"""What becomes of calls: submit, start, finish and give_up, each verdict on a real Redis."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from integration.config.rig import CAUSE, HOST, Rig

from toolfleet.config import keys
from toolfleet.config.answers import Holder
from toolfleet.config.contract import Status, ToolCall


@pytest.fixture
async def holder(rig: Rig) -> Holder:
    """Of t1, on w1, which has a slot more."""
    await rig.worker(slots=2)
    return await rig.hold()


@pytest.fixture
def call(rig: Rig) -> ToolCall:
    """The call c1 of t1."""
    return rig.call()


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


class TestFinish:
    async def test_done_is_delivered_and_recorded(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        assert await rig.finish(holder, call) == ["done"]
        assert await rig.results() == [rig.result(call)]
        fields = await rig.fields("call", "c1")
        assert fields["state"] == "done"
        assert "body" not in fields, "the arguments may be large, and nobody needs them any more"
        assert await rig.open_calls() == []

    async def test_a_call_refused_before_its_start_is_done_as_well(
        self, rig: Rig, holder: Holder, call: ToolCall
    ) -> None:
        await rig.submit(holder, call)
        assert await rig.finish(holder, call, status=Status.REJECTED) == ["done"]
        assert await rig.start(holder, call) == ["duplicate"]

    async def test_late_when_it_had_ended(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        await rig.give_up(call)
        assert await rig.finish(holder, call) == ["late"]
        assert await rig.replies() == []

    async def test_late_with_another_result(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        await rig.finish(holder, call, output="first")
        assert await rig.finish(holder, call, output="second") == ["late"]
        assert [result.output for result in await rig.results()] == ["first"]

    async def test_late_when_the_ledger_does_not_know_it(self, rig: Rig, holder: Holder) -> None:
        assert await rig.finish(holder, rig.call("never-submitted")) == ["late"]
        assert await rig.fields("call", "never-submitted") == {}

    async def test_stale_from_another_epoch_or_boot(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        assert await rig.finish(holder._replace(epoch=2), call) == ["stale"]
        assert await rig.finish(holder._replace(boot="other"), call) == ["stale"]
        assert await rig.replies() == []
        assert await rig.finish(holder, call) == ["done"]

    async def test_stale_when_the_call_was_carried_anew(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        await rig.recover()
        await rig.worker("w2")
        there = await rig.hold()
        await rig.running(there, call)
        assert await rig.finish(holder, call, output="from the dead") == ["stale"]
        assert await rig.finish(there, call, output="from the living") == ["done"]
        assert [result.output for result in await rig.results()] == ["from the living"]

    async def test_while_closing_calls_still_finish(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        await rig.state.close("t1")
        assert await rig.finish(holder, call) == ["done"]

    async def test_a_producer_that_is_gone_gets_no_stream(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        await rig.state.producer_gone("p1")
        assert await rig.finish(holder, call) == ["done"]
        assert not await rig.redis.exists(rig.state.key("replies", "p1"))
        assert (await rig.fields("call", "c1"))["state"] == "done", "the result waits in the ledger"

    async def test_a_result_that_tells_the_loss_clears_it(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.used()
        await rig.recover()
        await rig.worker("w2")
        holder, call = await rig.hold(), rig.call()
        await rig.submit(holder, call)
        assert await rig.told("t1", holder)
        await rig.finish(holder, call, status=Status.LOST)
        assert await rig.told("t1", holder) == ""

    async def test_any_other_result_leaves_the_loss_to_be_told(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.used()
        await rig.recover()
        await rig.worker("w2")
        holder = await rig.hold()
        await rig.running(holder, rig.call())
        await rig.finish(holder, rig.call())
        assert await rig.told("t1", holder)


class TestGiveUp:
    async def test_ended_before_it_started(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        verdict, worker, result = await rig.give_up(call)
        assert (verdict, worker) == ("ended", "w1")
        assert result
        assert (result.status, result.executed) == ("failed", "no")
        assert await rig.open_calls() == []
        assert await rig.replies() == [], "the producer knows: it is the one who asked"

    async def test_started_and_recorded_as_unknown(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        assert await rig.give_up(call) == ("started", "w1", None)
        assert await rig.finish(holder, call) == ["late"]
        _, _, standing = await rig.give_up(call, leave_running=True)
        assert standing
        assert standing.status == "unknown"

    async def test_started_and_left_running(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        assert await rig.give_up(call, leave_running=True) == ("started", "w1", None)
        assert await rig.open_calls() == ["c1"]
        assert await rig.finish(holder, call, status=Status.CANCELLED) == ["done"]

    async def test_done_before(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.running(holder, call)
        await rig.finish(holder, call)
        assert await rig.give_up(call) == ("done", "w1", rig.result(call))

    async def test_missing(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        assert await rig.give_up(call) == ("missing", "", None)
        assert await rig.fields("call", "c1") == {}

    async def test_a_call_on_its_way_back_ends_too(self, rig: Rig, holder: Holder, call: ToolCall) -> None:
        await rig.submit(holder, call)
        await rig.recover()
        verdict, _, _ = await rig.give_up(call)
        assert verdict == "ended"
        assert await rig.open_calls() == []


class TestReplies:
    async def test_each_producer_gets_its_own_results(self, rig: Rig, holder: Holder) -> None:
        await rig.producer("p2")
        mine, other = rig.call("c1"), rig.call("c2", producer="p2")
        await rig.running(holder, mine)
        await rig.running(holder, other)
        await rig.finish(holder, mine, other)
        assert [r.call_id for r in await rig.results("p1")] == ["c1"]
        assert [r.call_id for r in await rig.results("p2")] == ["c2"]

    async def test_a_bounce_reaches_a_living_producer_only(self, rig: Rig, call: ToolCall) -> None:
        await rig.state.bounce(call)
        await rig.state.bounce(rig.call("c2", producer="nobody"))
        assert await rig.replies() == [("moved", "c1", "t1")]
        assert not await rig.redis.exists(rig.state.key("replies", "nobody"))

    async def test_a_producer_that_leaves_takes_its_stream_along(self, rig: Rig, call: ToolCall) -> None:
        await rig.state.bounce(call)
        await rig.state.producer_gone("p1")
        assert not await rig.redis.exists(rig.state.key("replies", "p1"), rig.state.key("producer", "p1"))

    async def test_text_of_any_language_and_any_size_arrives_whole(self, rig: Rig, holder: Holder) -> None:
        call = ToolCall(
            call_id="c", trajectory_id="t1", name="terminal", arguments={"command": "é\x00\u2028" * 100_000}
        )
        await rig.submit(holder, call, producer="p1")
        body = await rig.state.body("c")
        assert body
        assert ToolCall.model_validate_json(body) == call
        await rig.start(holder, call)
        await rig.finish(holder, call, output="\U0001f600\x00" * 20_000)
        (result,) = await rig.results()
        assert result.output == "\U0001f600\x00" * 20_000

    async def test_the_name_of_a_lost_call_arrives_whole(self, rig: Rig, holder: Holder) -> None:
        """The one result that a script writes itself, in Lua's own JSON."""
        call = ToolCall(call_id="c/1", trajectory_id="t1", name='n"é/\\\U0001f600', producer="p1")
        await rig.running(holder, call)
        await rig.recover()
        (result,) = await rig.results()
        assert (result.call_id, result.name) == (call.call_id, call.name)


class TestTimeToLive:
    """That there is one the fixture ``redis_url`` checks after every test; here, that it is the right one."""

    async def test_every_kind_of_key_has_one(self, rig: Rig) -> None:
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
    async def test_a_result_is_kept_for_as_long_as_results_are(
        self, how: str, rig: Rig, holder: Holder, call: ToolCall
    ) -> None:
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

    async def test_the_heartbeat_prolongs_the_leases_that_it_holds(self, rig: Rig, holder: Holder) -> None:
        for key in (rig.state.key("lease", "t1"), rig.state.key("leases", "w1"), rig.state.key("worker", "w1")):
            await rig.redis.pexpire(key, 5000)
        await rig.worker(slots=2, held=[("t1", 1)])
        for key in (rig.state.key("lease", "t1"), rig.state.key("leases", "w1"), rig.state.key("worker", "w1")):
            assert await rig.redis.pttl(key) > 6000, key

    async def test_content_beside_the_ledger_is_there_until_it_is_dropped(self, rig: Rig) -> None:
        await rig.state.put_part("c1", b"\0\xff")
        assert 0 < await rig.redis.pttl(rig.state.key("part", "c1")) <= rig.settings.result_ttl * 1000
        assert await rig.state.part("c1") == b"\0\xff"
        for _ in range(2):
            await rig.state.drop_part("c1")
        assert await rig.state.part("c1") is None

    async def test_an_archive_put_again_stays_longer_and_the_same(self, rig: Rig) -> None:
        await rig.state.put_blob("d", b"one")
        await rig.redis.pexpire(rig.state.key("blob", "d"), 5000)
        await rig.state.put_blob("d", b"one")
        assert await rig.redis.pttl(rig.state.key("blob", "d")) > 6000
        assert await rig.state.blob("d") == b"one"
        assert await rig.state.blob("other") is None


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
