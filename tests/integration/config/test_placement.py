"""Where trajectories go: route, leave, close, claim, release, heartbeat and recover, each verdict on a real Redis."""

from integration.config.rig import DIED, Rig, settings

from toolfleet.config.contract import Status
from toolfleet.config.state import Holder


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

    async def test_the_setup_travels_with_the_lease(self, rig: Rig) -> None:
        await rig.worker()
        setup = [{"archive": "a" * 64, "dest": "/src"}]
        route = await rig.state.route("t1", "p1", "default", sweep="s", setup=setup, wait=1.0)
        assert route.holder
        claim = await rig.state.claim("t1", "w1-boot", 1)
        assert claim
        assert (claim.setup, claim.profile, claim.producer, claim.generation) == (setup, "default", "p1", 1)


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


class TestClaim:
    async def test_only_the_holder_may(self, rig: Rig) -> None:
        await rig.worker()
        await rig.route()
        assert await rig.state.claim("t1", "other-boot", 1) is None
        assert await rig.state.claim("t1", "w1-boot", 2) is None
        assert await rig.state.claim("t2", "w1-boot", 1) is None
        assert await rig.state.claim("t1", "w1-boot", 1)
        assert (await rig.fields("lease", "t1"))["state"] == "active"

    async def test_none_after_the_end(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.state.release("t1", holder)
        assert await rig.state.claim("t1", "w1-boot", 1) is None

    async def test_a_closing_lease_stays_closing(self, rig: Rig) -> None:
        """The calls that entered still run."""
        await rig.worker()
        await rig.route()
        await rig.state.close("t1")
        assert await rig.state.claim("t1", "w1-boot", 1)
        assert (await rig.route()).verdict == "closed"


class TestRelease:
    async def test_only_by_the_holder(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        assert not await rig.state.release("t1", holder._replace(boot="other"))
        assert not await rig.state.release("t1", holder._replace(epoch=2))
        assert await rig.leases() == {"t1"}
        assert await rig.state.release("t1", holder)
        assert await rig.leases() == set()

    async def test_calls_left_behind_end(self, rig: Rig) -> None:
        """A call on its way while its trajectory is reaped must not stay open, and is not the policy's fault."""
        await rig.worker()
        holder = await rig.hold()
        await rig.submit(holder, rig.call("c1"), rig.call("c2"))
        await rig.start(holder, rig.call("c1"))
        await rig.state.release("t1", holder)
        found = {result.call_id: result for result in await rig.results()}
        assert {ident: (r.status, r.executed, r.fault) for ident, r in found.items()} == {
            "c1": ("lost", "unknown", "infrastructure"),
            "c2": ("lost", "no", "infrastructure"),
        }
        assert await rig.open_calls() == []
        assert await rig.finish(holder, rig.call("c1")) == ["late"]

    async def test_the_tombstone_holds_nothing_but_what_turns_late_ones_away(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.used()
        await rig.state.release("t1", holder)
        left = await rig.fields("lease", "t1")
        assert left["state"] == "closed"
        assert not {"setup", "boot", "lost"} & set(left)
        assert await rig.submit(holder, rig.call()) == ["closed"]
        assert await rig.finish(holder, rig.call()) == ["late"]


class TestRenewWorkspace:
    async def test_counts_a_workspace_in_which_something_had_started(self, rig: Rig) -> None:
        await rig.worker()
        await rig.used()
        assert await rig.state.renew_workspace("t1", "w1-boot", 1) == 2

    async def test_an_untouched_one_is_as_good_as_new(self, rig: Rig) -> None:
        await rig.worker()
        await rig.hold()
        assert await rig.state.renew_workspace("t1", "w1-boot", 1) == 1

    async def test_only_by_the_holder(self, rig: Rig) -> None:
        await rig.worker()
        await rig.used()
        assert await rig.state.renew_workspace("t1", "w1-boot", 2) == 0
        assert await rig.state.renew_workspace("t1", "other", 1) == 0


class TestHeartbeat:
    async def test_a_lease_held_elsewhere_is_lost(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.used()
        await rig.lapse("w1")
        await rig.worker("w2")
        assert (await rig.route()).verdict == "assigned"
        beat = await rig.worker("w1", held=[("t1", 1), ("never-heard-of", 3)])
        assert (beat.lost, beat.unknown) == (["t1", "never-heard-of"], [])
        assert (await rig.fields("lease", "t1"))["worker"] == "w2"

    async def test_a_closed_lease_is_lost(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.state.release("t1", holder)
        assert (await rig.worker(held=[("t1", 1)])).lost == ["t1"]

    async def test_an_assignment_it_has_not_heard_of_is_unknown(self, rig: Rig) -> None:
        await rig.worker()
        await rig.route()
        beat = await rig.worker()
        assert (beat.lost, beat.unknown) == ([], [("t1", 1)])
        assert (await rig.worker(held=[("t1", 1)])).unknown == []

    async def test_a_lease_whose_producer_is_dead_is_orphaned(self, rig: Rig) -> None:
        await rig.worker(slots=2)
        await rig.producer("p2")
        await rig.hold("t1")
        await rig.hold("t2", "p2")
        await rig.state.producer_gone("p2")
        assert (await rig.worker(slots=2, held=[("t1", 1), ("t2", 1)])).orphaned == ["t2"]

    async def test_an_orphan_whose_producer_came_back_is_none(self, rig: Rig) -> None:
        await rig.worker()
        await rig.hold()
        await rig.state.producer_gone("p1")
        await rig.producer("p9")
        await rig.route(producer="p9")
        assert (await rig.worker(held=[("t1", 1)])).orphaned == []

    async def test_fields_of_an_earlier_process_vanish(self, rig: Rig) -> None:
        await rig.worker(serves=["default", "gpu"], boot="old")
        await rig.worker(serves=["default"], boot="new")
        fields = await rig.fields("worker", "w1")
        assert fields["boot"] == "new"
        assert not [name for name in fields if name.endswith(":gpu")]

    async def test_leases_of_an_earlier_process_end_when_the_next_one_comes_up(self, rig: Rig) -> None:
        """A worker that restarts under its name before anyone recovered it must not leave calls waiting for ever."""
        await rig.worker(slots=2, boot="old")
        used = await rig.used("t1")
        await rig.submit(used, rig.call("c1"), rig.call("c2"))
        await rig.start(used, rig.call("c1"))
        beat = await rig.worker(slots=2, boot="new")
        assert (beat.lost, beat.unknown) == ([], [])
        replies = {ident: kind for kind, ident, _ in await rig.replies()}
        assert replies == {"c1": "result", "c2": "moved"}
        assert await rig.leases() == set()
        assert (await rig.route("t1")).holder == Holder("w1", "new", 2)

    async def test_a_large_earlier_process_ends_over_several_heartbeats(self, rig: Rig) -> None:
        await rig.worker(slots=120, boot="old")
        for number in range(120):
            await rig.route(f"t{number}")
        left = []
        for _ in range(3):
            await rig.worker(slots=120, boot="new")
            left.append(len(await rig.leases()))
        assert left == [70, 20, 0]

    async def test_facts_are_kept_as_they_are_told(self, rig: Rig) -> None:
        await rig.state.heartbeat("w1", "b", {"slots": 4, "host": "gpu-1", "calls": 123456789, "pid": 1}, [])
        live = await rig.state.workers()
        expected = {"boot": "b", "slots": "4", "host": "gpu-1", "calls": "123456789", "pid": "1", "used": "0"}
        assert live == {"w1": expected}

    async def test_a_lapsed_worker_is_listed_as_such_and_not_among_the_living(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.worker("w2")
        await rig.lapse("w1")
        assert await rig.state.lapsed() == [("w1", "w1-boot")]
        assert list(await rig.state.workers()) == ["w2"]


class TestRecover:
    async def test_a_started_call_ends_as_lost_and_is_told_once(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.running(holder, rig.call())
        await rig.recover()
        (result,) = await rig.results()
        assert (result.status, result.fault, result.executed) == ("lost", "infrastructure", "unknown")
        assert (result.call_id, result.name, result.worker_id) == ("c1", "terminal", "w1")
        assert DIED in (result.error or "")
        await rig.recover()
        assert await rig.replies() == []
        assert await rig.finish(holder, rig.call()) == ["late"]

    async def test_a_queued_call_is_sent_back_to_be_routed_anew(self, rig: Rig) -> None:
        await rig.worker("w1")
        holder = await rig.hold()
        await rig.submit(holder, rig.call())
        await rig.recover()
        assert await rig.replies() == [("moved", "c1", "t1")]
        await rig.worker("w2")
        assert await rig.submit(await rig.hold(), rig.call()) == ["queued"]

    async def test_queued_calls_are_sent_back_in_the_order_in_which_they_were_made(self, rig: Rig) -> None:
        """Many enter within one millisecond, in one message and in several."""
        await rig.worker()
        holder = await rig.hold()
        calls = [rig.call(f"c{n:03}") for n in reversed(range(150))]
        for begin in range(0, 150, 50):
            await rig.submit(holder, *calls[begin : begin + 50])
        await rig.recover()
        assert [ident for _, ident, _ in await rig.replies()] == [call.call_id for call in calls]

    async def test_the_next_claim_tells_the_loss_when_nothing_has_told_it(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.used()
        await rig.recover()
        await rig.worker("w2")
        holder = await rig.hold()
        assert await rig.told("t1", holder) == DIED
        claim = await rig.state.claim("t1", holder.boot, holder.epoch)
        assert claim
        assert claim.generation == 2

    async def test_the_next_claim_tells_nothing_when_a_result_has_told_it(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.running(await rig.hold(), rig.call())
        await rig.recover()
        await rig.worker("w2")
        holder = await rig.hold()
        claim = await rig.state.claim("t1", holder.boot, holder.epoch)
        assert claim
        assert (claim.lost, claim.generation) == ("", 2)

    async def test_a_result_that_nobody_read_has_told_nothing(self, rig: Rig) -> None:
        """The producer was dead too; whoever comes next must hear of the loss."""
        await rig.worker("w1")
        await rig.running(await rig.hold(), rig.call())
        await rig.state.producer_gone("p1")
        await rig.recover()
        await rig.worker("w2")
        await rig.producer("p2")
        assert await rig.told("t1", await rig.hold(producer="p2")) == DIED

    async def test_a_workspace_in_which_nothing_had_started_is_no_loss(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.submit(await rig.hold(), rig.call())
        await rig.recover()
        await rig.worker("w2")
        holder = await rig.hold()
        claim = await rig.state.claim("t1", holder.boot, holder.epoch)
        assert claim
        assert (claim.lost, claim.generation) == ("", 1)

    async def test_a_loss_not_told_yet_outlives_the_next_worker(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.used()
        await rig.recover("w1")
        await rig.worker("w2")
        await rig.route()
        await rig.recover("w2")
        await rig.worker("w3")
        assert await rig.told("t1", await rig.hold()) == DIED

    async def test_a_loss_is_carried_through_the_waiting_room(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.used()
        await rig.recover()
        await rig.worker("w2", accepting=False)
        assert (await rig.route()).verdict == "waiting"
        await rig.worker("w2")
        assert await rig.told("t1", (await rig.placed())["t1"]) == DIED

    async def test_the_epoch_rises_at_each_change_of_holder(self, rig: Rig) -> None:
        epochs = []
        for number in range(1, 5):
            await rig.worker(f"w{number}")
            epochs.append((await rig.hold()).epoch)
            await rig.recover(f"w{number}")
        assert epochs == [1, 2, 3, 4]

    async def test_a_pass_is_bounded_and_says_that_more_is_left(self, rig: Rig) -> None:
        await rig.worker(slots=120)
        for number in range(120):
            holder = (await rig.route(f"t{number}")).holder
            assert holder
            await rig.submit(holder, rig.call(f"c{number}", f"t{number}"))
        assert await rig.recover() == 3
        assert {kind for kind, _, _ in await rig.replies()} == {"moved"}
        assert await rig.leases() == set()

    async def test_a_worker_that_came_back_under_a_new_boot_is_not_touched(self, rig: Rig) -> None:
        await rig.worker(boot="new")
        holder = await rig.hold()
        await rig.running(holder, rig.call())
        assert await rig.recover(boot="old") == 1
        assert await rig.leases() == {"t1"}
        assert await rig.finish(holder, rig.call()) == ["done"]
        assert "w1" in await rig.state.workers()

    async def test_a_worker_whose_heartbeat_came_back_is_not_touched(self, rig: Rig) -> None:
        """It was late, and beat again between the look at the list and the recovery: unknown is never gone."""
        await rig.worker()
        holder = await rig.hold()
        await rig.lapse()
        (gone,) = await rig.state.lapsed()
        await rig.worker(held=[("t1", 1)])
        assert await rig.recover(*gone, if_lapsed=True) == 1
        assert await rig.submit(holder, rig.call()) == ["queued"]
        assert "w1" in await rig.state.workers()

    async def test_a_worker_that_stops_need_not_wait_until_it_lapses(self, rig: Rig) -> None:
        await rig.worker()
        await rig.hold()
        await rig.recover()
        assert await rig.state.workers() == {}
        assert await rig.state.lapsed() == []

    async def test_closing_trajectories_end_with_all_their_calls(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.submit(holder, rig.call("c1"), rig.call("c2"))
        await rig.start(holder, rig.call("c1"))
        await rig.state.close("t1")
        await rig.recover()
        assert {(r.call_id, r.status, r.executed) for r in await rig.results()} == {
            ("c1", "lost", "unknown"),
            ("c2", "lost", "no"),
        }
        assert await rig.open_calls() == []
        assert (await rig.route()).verdict == "closed"

    async def test_nothing_of_the_worker_is_left(self, rig: Rig) -> None:
        await rig.worker()
        await rig.hold()
        await rig.recover()
        for name in ("worker", "leases"):
            assert not await rig.redis.exists(rig.state.key(name, "w1"))
        assert await rig.redis.zscore(rig.state.key("workers"), "w1") is None

    async def test_route_does_the_same_for_the_one_trajectory_it_is_asked_for(self, rig: Rig) -> None:
        await rig.worker("w1", slots=2)
        await rig.running(await rig.hold("t1"), rig.call("c1", "t1"))
        await rig.running(await rig.hold("t2"), rig.call("c2", "t2"))
        await rig.lapse("w1")
        await rig.worker("w2")
        assert (await rig.route("t1")).holder == Holder("w2", "w2-boot", 2)
        assert [result.call_id for result in await rig.results()] == ["c1"]
        assert await rig.leases("w1") == {"t2"}
