"""Where trajectories go: route, the waiting room, leave and close, each verdict on a real Redis."""

from integration.config.rig import DIED, HOST, Rig, settings

from toolfleet.config.answers import Holder
from toolfleet.config.contract import Beginning, Setup, Status
from toolfleet.config.snapshots import Origin


class TestRoute:
    async def test_assigned_to_a_worker_with_a_free_slot(self, rig: Rig) -> None:
        await rig.worker()
        route = await rig.route()
        assert (route.verdict, route.holder) == ("assigned", Holder("w1", "w1-boot", 1))
        assert await rig.leases() == {"t1"}

    async def test_held_when_asked_again(self, rig: Rig) -> None:
        await rig.worker()
        first = await rig.route()
        again = await rig.route()
        assert (again.verdict, again.holder) == ("held", first.holder)

    async def test_held_passes_to_the_producer_that_asked_last(self, rig: Rig) -> None:
        await rig.worker()
        await rig.route()
        await rig.route(producer="p2")
        assert (await rig.fields("lease", "t1"))["producer"] == "p2"

    async def test_waiting_when_no_slot_is_free(self, rig: Rig) -> None:
        await rig.worker()
        await rig.hold("t1")
        route = await rig.route("t2")
        assert (route.verdict, route.holder) == ("waiting", None)
        assert await rig.state.waiting() == 1

    async def test_waiting_when_the_only_worker_accepts_nobody(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        assert (await rig.route()).verdict == "waiting"

    async def test_full_when_the_waiting_room_is(self, rig: Rig) -> None:
        small = Rig(rig.redis, settings("unix:///x", waiting_room=2))
        await small.worker(accepting=False)
        verdicts = [(await small.route(f"t{n}")).verdict for n in range(3)]
        assert verdicts == ["waiting", "waiting", "full"]
        assert (await small.route("t0")).verdict == "waiting", "who is in it already may ask again"

    async def test_unserved_without_any_worker(self, rig: Rig) -> None:
        assert (await rig.route()).verdict == "unserved"
        assert await rig.state.waiting() == 0

    async def test_unserved_when_no_worker_has_the_profile(self, rig: Rig) -> None:
        await rig.worker(serves=["gpu"])
        assert (await rig.route()).verdict == "unserved"
        assert (await rig.route(profile="gpu")).verdict == "assigned"

    async def test_unserved_when_the_only_worker_is_dead(self, rig: Rig) -> None:
        await rig.worker()
        await rig.lapse()
        assert (await rig.route()).verdict == "unserved"

    async def test_closed_while_closing_and_ever_after(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.state.close("t1")
        assert (await rig.route()).verdict == "closed"
        await rig.state.release("t1", holder)
        assert (await rig.route()).verdict == "closed"

    async def test_what_it_begins_with_travels_with_the_lease(self, rig: Rig) -> None:
        await rig.worker()
        beginning = Beginning(setup=(Setup(archive="a" * 64, dest="/src"),), image="busybox")
        route = await rig.state.route("t1", "p1", "default", sweep="s", beginning=beginning, wait=1.0)
        assert route.holder
        claim = await rig.claim("t1", route.holder)
        assert (claim.beginning, claim.profile, claim.producer, claim.generation) == (beginning, "default", "p1", 1)


class TestChoice:
    async def test_the_most_warm_worker_wins_over_the_most_free_one(self, rig: Rig) -> None:
        await rig.worker("w1", slots=9, warm=1)
        await rig.worker("w2", slots=2, warm=2)
        assert (await rig.hold()).worker == "w2"

    async def test_among_equally_warm_ones_the_most_free_wins(self, rig: Rig) -> None:
        await rig.worker("w1", slots=2, warm=1)
        await rig.worker("w2", slots=5, warm=1)
        assert (await rig.hold()).worker == "w2"

    async def test_a_hand_out_counts_at_once_so_that_a_burst_spreads(self, rig: Rig) -> None:
        for name in ("w1", "w2"):
            await rig.worker(name, slots=4, warm=2)
        went = [(await rig.hold(f"t{n}")).worker for n in range(4)]
        assert sorted(went) == ["w1", "w1", "w2", "w2"]

    async def test_only_as_many_are_warm_as_there_are_slots(self, rig: Rig) -> None:
        await rig.worker("w1", slots=1, warm=9)
        await rig.worker("w2", slots=9, warm=2)
        assert (await rig.hold()).worker == "w2"

    async def test_a_full_worker_gets_none(self, rig: Rig) -> None:
        await rig.worker("w1", slots=1, warm=1)
        await rig.worker("w2", slots=1)
        assert {(await rig.hold(t)).worker for t in ("t1", "t2")} == {"w1", "w2"}
        assert (await rig.route("t3")).verdict == "waiting"

    async def test_warm_sandboxes_of_another_profile_do_not_count(self, rig: Rig) -> None:
        await rig.state.heartbeat("w1", "b1", {"slots": 1, "accepting": 1, "serves:default": 1, "warm:gpu": 9}, [])
        await rig.worker("w2", warm=1)
        assert (await rig.hold()).worker == "w2"


class TestWaitingRoom:
    async def test_the_oldest_waiter_gets_the_slot_and_a_notice(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold("t1")
        for trajectory in ("t2", "t3"):
            await rig.route(trajectory)
        assert await rig.state.release("t1", holder)
        assert await rig.placed() == {"t2": Holder("w1", "w1-boot", 1)}
        assert await rig.leases() == {"t2"}
        assert await rig.state.waiting() == 1

    async def test_a_newcomer_never_overtakes_the_room(self, rig: Rig) -> None:
        """A slot that became free without a release is for those who wait, even if a newcomer asks first."""
        await rig.worker(slots=1)
        await rig.hold("t1")
        await rig.route("t2")
        await rig.redis.hset(rig.state.key("worker", "w1"), "slots", 2)
        assert (await rig.route("t3")).verdict == "waiting"
        await rig.worker(slots=2, held=[("t1", 1)])
        assert set(await rig.placed()) == {"t2"}

    async def test_who_asks_for_another_place_waits_in_one_room_only(self, rig: Rig) -> None:
        await rig.worker(slots=1, reaches=[HOST])
        holder = await rig.hold("t1")
        await rig.route("t2", origin=Origin("snap", HOST))
        await rig.route("t3")
        await rig.route("t2")
        assert await rig.state.waiting() == 2
        assert await rig.state.release("t1", holder)
        assert set(await rig.placed()) == {"t2"}, "it has waited as long as before"

    async def test_asking_again_keeps_the_place_in_line(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        for trajectory in ("t1", "t2", "t1"):
            await rig.route(trajectory)
        assert await rig.state.waiting() == 2
        await rig.worker()
        assert set(await rig.placed()) == {"t1"}

    async def test_asking_again_prolongs_the_wait_and_names_the_new_producer(self, rig: Rig) -> None:
        await rig.producer("p2")
        await rig.worker(accepting=False)
        await rig.route(wait=0)
        await rig.route(producer="p2")
        await rig.worker()
        assert set(await rig.placed("p2")) == {"t1"}
        assert await rig.replies("p1") == []

    async def test_a_waiter_that_the_room_forgot_is_put_in_it_again(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        await rig.route()
        await rig.redis.delete(rig.state.key("room", "default"))
        assert (await rig.route()).verdict == "waiting"
        assert await rig.state.waiting() == 1

    async def test_a_waiter_whose_time_is_up_is_skipped(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        await rig.route("t1", wait=0)
        await rig.route("t2")
        await rig.worker()
        assert set(await rig.placed()) == {"t2"}
        assert await rig.state.waiting() == 0

    async def test_a_waiter_of_a_dead_producer_is_skipped(self, rig: Rig) -> None:
        await rig.producer("dead")
        await rig.worker(accepting=False)
        await rig.route("t1", "dead")
        await rig.route("t2")
        await rig.state.producer_gone("dead")
        await rig.worker()
        assert set(await rig.placed()) == {"t2"}
        assert await rig.fields("waiter", "t1") == {}
        assert await rig.leases() == {"t2"}

    async def test_a_waiter_for_another_profile_keeps_waiting(self, rig: Rig) -> None:
        await rig.worker("w1", accepting=False)
        await rig.worker("w2", accepting=False, serves=["gpu"])
        await rig.route("t1", profile="gpu")
        await rig.route("t2")
        await rig.worker("w1")
        assert set(await rig.placed()) == {"t2"}
        await rig.worker("w2", serves=["gpu"])
        assert set(await rig.placed()) == {"t1"}

    async def test_a_worker_that_arrives_seats_as_many_as_it_has_slots(self, rig: Rig) -> None:
        await rig.worker("w1", accepting=False)
        for number in range(5):
            await rig.route(f"t{number}")
        await rig.worker("w2", slots=3)
        assert set(await rig.placed()) == {"t0", "t1", "t2"}
        assert len(await rig.leases("w2")) == 3

    async def test_a_worker_that_stops_accepting_seats_nobody(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold("t1")
        await rig.route("t2")
        await rig.worker(accepting=False, held=[("t1", 1)])
        await rig.state.release("t1", holder)
        assert await rig.placed() == {}

    async def test_closing_leaves_the_room(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        await rig.route()
        assert await rig.state.close("t1") is None
        assert await rig.state.waiting() == 0
        await rig.worker()
        assert await rig.placed() == {}

    async def test_a_long_line_for_one_profile_does_not_hold_up_another(self, rig: Rig) -> None:
        await rig.worker("busy", serves=["gpu"], accepting=False)
        for number in range(200):
            await rig.route(f"g{number}", profile="gpu")
        await rig.worker("idle")
        await rig.route("t1")
        await rig.worker("idle")
        assert (await rig.route("t1")).verdict == "held"


class TestLeave:
    async def test_left_before_a_slot_came(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        await rig.route()
        assert await rig.state.leave("t1") is None
        assert await rig.state.waiting() == 0

    async def test_the_slot_that_came_first_is_told(self, rig: Rig) -> None:
        await rig.worker(accepting=False)
        await rig.route()
        await rig.worker()
        assert await rig.state.leave("t1") == Holder("w1", "w1-boot", 1)

    async def test_leaving_does_not_lose_the_cause_of_a_loss(self, rig: Rig) -> None:
        await rig.worker()
        await rig.used()
        await rig.recover()
        await rig.worker("w2", accepting=False)
        await rig.route()
        await rig.state.leave("t1")
        await rig.worker("w2")
        assert await rig.told("t1", await rig.hold()) == DIED


class TestClose:
    async def test_a_trajectory_that_never_had_a_slot(self, rig: Rig) -> None:
        await rig.worker()
        assert await rig.state.close("t1") is None
        assert (await rig.route()).verdict == "closed"

    async def test_names_the_holder_to_be_told(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        assert await rig.state.close("t1") == holder
        assert await rig.leases() == {"t1"}, "the slot is taken until the holder has destroyed the sandbox"

    async def test_a_released_one_has_nobody_to_tell(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.state.release("t1", holder)
        assert await rig.state.close("t1") is None

    async def test_when_its_worker_is_gone_nobody_is_told_and_its_calls_end(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.submit(holder, rig.call())
        await rig.recover()
        assert [kind for kind, _, _ in await rig.replies()] == ["moved"]
        assert await rig.state.close("t1") is None
        (result,) = await rig.results()
        assert (result.call_id, result.status, result.executed) == ("c1", Status.LOST, "no")
        assert await rig.open_calls() == []
        assert (await rig.route()).verdict == "closed"
