"""How calls end, and who hears of it: finish, give_up and replies, each verdict on a real Redis."""

from integration.config.rig import Rig

from toolfleet.config.answers import Holder
from toolfleet.config.contract import Status, ToolCall


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
