"""How a lease goes to another worker that reaches the place of its sandbox: by recover, route, heartbeat, hand_over."""

import pytest
from integration.config.rig import HOST, Rig, sandbox

from toolfleet.config.answers import Holder
from toolfleet.config.contract import Status


@pytest.fixture
async def holder(rig: Rig) -> Holder:
    """Of t1, on w1, with the sandbox s1 in which a call has run; w2 reaches it."""
    await rig.worker("w1", reaches=[HOST])
    made = await rig.furnished()
    await rig.worker("w2", reaches=[HOST])
    return made


HEIR = Holder("w2", "w2-boot", 2)


class TestTheHeir:
    async def test_goes_on_with_the_workspace(self, rig: Rig, holder: Holder) -> None:
        await rig.recover("w1")
        claim = await rig.claim("t1", HEIR)
        assert (claim.sandbox, claim.used, claim.lost, claim.generation) == (sandbox(), True, "", 1)
        assert (await rig.leases("w1"), await rig.leases("w2")) == (set(), {"t1"})

    async def test_learns_of_it_by_its_next_heartbeat_and_before(self, rig: Rig, holder: Holder) -> None:
        await rig.recover("w1")
        assert await rig.state.inherited("w2") == 1
        assert (await rig.worker("w2", reaches=[HOST])).unknown == [("t1", 2)]

    async def test_is_found_by_a_route_as_well(self, rig: Rig, holder: Holder) -> None:
        await rig.lapse("w1")
        route = await rig.route(producer="p2")
        assert (route.verdict, route.holder) == ("held", HEIR)
        assert (await rig.fields("lease", "t1"))["producer"] == "p2"

    async def test_may_be_the_next_process_of_the_same_name(self, rig: Rig, holder: Holder) -> None:
        await rig.worker("w2", reaches=[HOST], accepting=False)
        assert (await rig.worker("w1", boot="new", reaches=[HOST])).lost == []
        assert (await rig.worker("w1", boot="new", reaches=[HOST])).unknown == [("t1", 2)]

    async def test_of_the_same_name_is_not_held_up_by_what_it_no_longer_holds(self, rig: Rig) -> None:
        await rig.worker("w1", slots=3, reaches=[HOST])
        await rig.furnished()
        await rig.worker("w2", reaches=[HOST])
        await rig.redis.sadd(rig.state.key("leases", "w1"), *(f"moved-{n}" for n in range(30)))
        await rig.worker("w1", slots=3, boot="new", reaches=[HOST])
        assert (await rig.leases("w1"), await rig.leases("w2")) == ({"t1"}, set())

    async def test_takes_more_than_its_slots_but_is_given_no_more_by_route(self, rig: Rig, holder: Holder) -> None:
        await rig.hold("t2")
        await rig.recover("w1")
        assert await rig.leases("w2") == {"t1", "t2"}
        assert (await rig.route("t3")).verdict == "waiting"

    async def test_is_the_one_with_the_most_free_slots(self, rig: Rig, holder: Holder) -> None:
        await rig.worker("w3", slots=5, reaches=[HOST])
        await rig.recover("w1")
        assert await rig.leases("w3") == {"t1"}

    async def test_that_dies_before_it_took_it_up_is_followed_by_the_next(self, rig: Rig, holder: Holder) -> None:
        await rig.running(holder, rig.call())
        await rig.recover("w1")
        await rig.worker("w3", reaches=[HOST])
        await rig.recover("w2")
        claim = await rig.claim("t1", Holder("w3", "w3-boot", 3))
        assert (claim.sandbox, claim.started) == (sandbox(), ["c1"])

    @pytest.mark.parametrize("wrong", ["elsewhere", "leaving", "lapsed", "other profile"])
    async def test_is_nobody_who_could_not_go_on(self, wrong: str, rig: Rig) -> None:
        await rig.worker("w1", reaches=[HOST])
        await rig.furnished()
        await rig.worker(
            "w2",
            reaches=["host-b" if wrong == "elsewhere" else HOST],
            accepting=wrong != "leaving",
            serves=["gpu" if wrong == "other profile" else "default"],
        )
        if wrong == "lapsed":
            await rig.lapse("w2")
        await rig.recover("w1")
        assert (await rig.fields("lease", "t1"))["state"] == "lost"

    async def test_inherits_no_sandbox_that_nobody_else_reaches(self, rig: Rig) -> None:
        await rig.worker("w1", reaches=[HOST])
        await rig.furnished(place="")
        await rig.worker("w2", reaches=[HOST, ""])
        await rig.recover("w1")
        assert (await rig.fields("lease", "t1"))["state"] == "lost"

    async def test_a_large_worker_is_handed_on_in_several_passes(self, rig: Rig) -> None:
        await rig.worker("w1", slots=120, reaches=[HOST])
        for number in range(120):
            holder = (await rig.route(f"t{number}")).holder
            assert holder
            await rig.furnish(holder, f"t{number}", f"s{number}")
        await rig.worker("w2", reaches=[HOST])
        assert await rig.recover("w1") == 3
        assert len(await rig.leases("w2")) == 120


class TestCalls:
    async def test_one_that_started_stays_so_and_ends_once(self, rig: Rig, holder: Holder) -> None:
        await rig.running(holder, rig.call())
        await rig.recover("w1")
        assert (await rig.claim("t1", HEIR)).started == ["c1"]
        assert await rig.finish(holder, rig.call()) == ["stale"]
        assert await rig.submit(HEIR, rig.call()) == ["again"]
        assert await rig.start(HEIR, rig.call(), attempt="a2") == ["duplicate"]
        assert await rig.finish(HEIR, rig.call()) == ["done"]
        assert len(await rig.results()) == 1

    async def test_to_cancel_it_the_producer_is_sent_to_the_heir(self, rig: Rig, holder: Holder) -> None:
        await rig.running(holder, rig.call())
        await rig.recover("w1")
        assert await rig.give_up(rig.call(), leave_running=True) == ("started", "w2", None)

    async def test_one_still_queued_is_carried_to_the_heir(self, rig: Rig, holder: Holder) -> None:
        await rig.submit(holder, rig.call())
        await rig.recover("w1")
        assert await rig.replies() == [("moved", "c1", "t1")]
        assert await rig.start(holder, rig.call()) == ["stale"]
        assert await rig.submit(HEIR, rig.call()) == ["queued"]
        assert await rig.start(HEIR, rig.call()) == ["go"]

    async def test_of_a_closing_trajectory_the_started_go_on_and_the_queued_end(self, rig: Rig, holder: Holder) -> None:
        """Its producer is let in no more, so a call that is sent back would stay open for ever."""
        await rig.running(holder, rig.call("c1"))
        await rig.submit(holder, rig.call("c2"))
        await rig.state.close("t1")
        await rig.recover("w1")
        (ended,) = await rig.results()
        assert (ended.call_id, ended.status, ended.executed) == ("c2", Status.LOST, "no")
        assert (await rig.claim("t1", HEIR)).started == ["c1"]
        assert await rig.finish(HEIR, rig.call("c1")) == ["done"]
        assert (await rig.worker("w2", reaches=[HOST], held=[("t1", 2)])).closing == ["t1"]


class TestHandOver:
    async def test_to_another_worker(self, rig: Rig, holder: Holder) -> None:
        await rig.worker("w1", reaches=[HOST], accepting=False, held=[("t1", 1)])
        assert await rig.state.hand_over("t1", holder)
        assert (await rig.claim("t1", HEIR)).sandbox == sandbox()
        assert (await rig.worker("w1", reaches=[HOST], accepting=False, held=[("t1", 1)])).lost == ["t1"]

    async def test_not_without_an_heir(self, rig: Rig) -> None:
        await rig.worker("w1", reaches=[HOST], accepting=False)
        await rig.worker("w2")
        holder = await rig.furnished()
        assert not await rig.state.hand_over("t1", holder)
        assert await rig.leases("w2") == {"t1"}

    async def test_not_to_itself(self, rig: Rig) -> None:
        await rig.worker("w1", reaches=[HOST])
        holder = await rig.furnished()
        assert not await rig.state.hand_over("t1", holder)
        assert (await rig.route()).holder == holder

    async def test_by_one_who_does_not_hold_it_changes_nothing(self, rig: Rig, holder: Holder) -> None:
        assert await rig.state.hand_over("t1", holder._replace(epoch=7)), "it is with another worker, evidently"
        assert (await rig.route()).holder == holder
