"""Every script bears being run twice, because redis-py repeats one whose answer was lost."""

import pytest
import redis.asyncio
from integration.config.rig import HOST, Rig, settings

from toolfleet.config.answers import Holder
from toolfleet.config.state import FleetState


class Echo(FleetState):
    """Runs every script twice with the same arguments, as redis-py does when an answer is lost; the second counts."""

    async def _run(self, name: str, *args: str | int) -> object:
        await super()._run(name, *args)
        return await super()._run(name, *args)


class TestEveryScriptBearsBeingRunTwice:
    @pytest.fixture
    async def rig(self, raw: redis.asyncio.Redis, redis_url: str) -> Rig:
        """A bench on which everything happens twice."""
        made = Rig(raw, settings(redis_url))
        made.state = Echo(raw, made.settings)
        await made.producer()
        return made

    async def test_route_reserves_one_slot(self, rig: Rig) -> None:
        await rig.worker(slots=2)
        route = await rig.route()
        assert (route.verdict, route.holder) == ("held", Holder("w1", "w1-boot", 1)), "the holder is what matters"
        assert await rig.leases() == {"t1"}

    async def test_route_waits_once(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        assert (await rig.route()).verdict == "waiting"
        assert await rig.state.waiting() == 1

    async def test_route_away_from_a_dead_worker_raises_the_epoch_once(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.running(await rig.hold(), rig.call())
        await rig.lapse("w1")
        await rig.worker("w2")
        assert (await rig.route()).holder == Holder("w2", "w2-boot", 2)
        assert len(await rig.results()) == 1

    async def test_leave(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        await rig.route()
        assert await rig.state.leave("t1") is None
        await rig.worker()
        holder = await rig.hold()
        assert await rig.state.leave("t1") == holder

    async def test_close_still_names_the_holder(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        assert await rig.state.close("t1") == holder

    async def test_close_without_a_holder(self, rig: Rig) -> None:
        assert await rig.state.close("t1") is None

    async def test_claim(self, rig: Rig) -> None:
        await rig.worker()
        await rig.hold()

    async def test_furnish_counts_once(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.furnish(holder)
        await rig.submit(holder, rig.call())
        await rig.start(holder, rig.call())
        assert await rig.furnish(holder, ident="s2") == 2

    async def test_renounce_counts_once_and_still_says_destroy(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.furnish(holder)
        await rig.submit(holder, rig.call())
        await rig.start(holder, rig.call())
        assert await rig.renounce(holder) == (True, 2)

    async def test_hand_over_gives_the_lease_to_one_heir_under_one_epoch(self, rig: Rig) -> None:
        await rig.worker("w1", reaches=[HOST])
        holder = await rig.hold()
        await rig.furnish(holder)
        await rig.worker("w1", reaches=[HOST], accepting=False, held=[("t1", 1)])
        await rig.worker("w2", reaches=[HOST])
        await rig.worker("w3", reaches=[HOST])
        assert await rig.state.hand_over("t1", holder)
        assert (await rig.fields("lease", "t1"))["epoch"] == "2"
        assert len(await rig.leases("w2") | await rig.leases("w3")) == 1

    async def test_announce_is_still_accepted(self, rig: Rig) -> None:
        await rig.worker()
        assert await rig.announce(Holder("w1", "w1-boot", 3))
        assert await rig.leases() == {"t1"}

    async def test_announce_is_still_refused(self, rig: Rig) -> None:
        await rig.state.close("t1")
        assert not await rig.announce(Holder("w1", "w1-boot", 3))

    async def test_a_forgotten_trajectory_begins_anew_once(self, rig: Rig) -> None:
        await rig.worker()
        route = await rig.route(known=4, forgotten="tell")
        assert (route.verdict, route.holder) == ("held", Holder("w1", "w1-boot", 5))
        assert await rig.told("t1", Holder("w1", "w1-boot", 5)) == "Redis lost its state"

    async def test_release_gives_one_slot_on(self, rig: Rig) -> None:
        """Asked again it says that the lease is not the worker's any more, which is true and harms nobody."""
        await rig.worker()
        holder = await rig.hold()
        await rig.route("t2")
        await rig.route("t3")
        assert await rig.state.release("t1", holder) is False
        assert set(await rig.placed()) == {"t2"}

    async def test_heartbeat_tells_the_same(self, rig: Rig) -> None:
        await rig.worker(slots=2)
        await rig.hold("t1")
        beat = await rig.worker(slots=2, held=[("t9", 1)])
        assert (beat.forgotten, beat.unknown) == (["t9"], [("t1", 1)])

    async def test_heartbeat_seats_each_waiter_once(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        await rig.route("t1")
        await rig.worker(slots=2)
        assert set(await rig.placed()) == {"t1"}
        assert await rig.leases() == {"t1"}

    async def test_heartbeat_of_a_new_process_ends_the_old_ones_calls_once(self, rig: Rig) -> None:
        await rig.worker(boot="old")
        await rig.running(await rig.hold(), rig.call())
        await rig.worker(boot="new")
        assert len(await rig.results()) == 1

    async def test_recover_tells_once(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.running(holder, rig.call("c1"))
        await rig.submit(holder, rig.call("c2"))
        assert await rig.recover() == 1
        assert sorted(kind for kind, _, _ in await rig.replies()) == ["moved", "result"]

    async def test_submit_enters_once_and_says_so(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        assert await rig.submit(holder, rig.call()) == ["again"], "both verdicts mean: publish it"
        assert await rig.open_calls() == ["c1"]
        assert await rig.submit(holder, rig.call("c2", "t9")) == ["moved"]
        await rig.start(holder, rig.call())
        await rig.finish(holder, rig.call())
        assert await rig.submit(holder, rig.call()) == ["done"]
        assert {result.output for result in await rig.results()} == {"out"}, "more than once, but one and the same"

    async def test_start_still_goes(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.submit(holder, rig.call())
        assert await rig.start(holder, rig.call(), attempt="a1") == ["go"]
        assert await rig.start(holder, rig.call(), attempt="a2") == ["duplicate"]

    async def test_finish_is_still_done_and_delivers_once(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.submit(holder, rig.call())
        await rig.start(holder, rig.call())
        assert await rig.finish(holder, rig.call()) == ["done"]
        assert len(await rig.results()) == 1

    async def test_give_up_before_the_start(self, rig: Rig) -> None:
        await rig.worker()
        await rig.submit(await rig.hold(), rig.call())
        verdict, worker, result = await rig.give_up(rig.call())
        assert (verdict, worker) == ("ended", "w1")
        assert result
        assert result.status == "failed"

    @pytest.mark.parametrize("leave_running", [False, True])
    async def test_give_up_after_the_start_still_says_where_to_stop_it(self, leave_running: bool, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.submit(holder, rig.call())
        await rig.start(holder, rig.call())
        assert await rig.give_up(rig.call(), leave_running=leave_running) == ("started", "w1", None)
