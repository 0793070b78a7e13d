"""What a holder does with its lease: claim, furnish, renounce, release and the heartbeat, on a real Redis."""

from integration.config.rig import HOST, Rig, sandbox

from toolfleet.config.answers import Holder


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


class TestFurnish:
    async def test_only_by_the_holder(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        assert await rig.furnish(holder._replace(epoch=2)) == 0
        assert await rig.furnish(holder._replace(boot="other")) == 0
        assert (await rig.claim("t1", holder)).sandbox is None

    async def test_the_next_claim_is_led_to_the_sandbox(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        assert await rig.furnish(holder) == 1
        assert (await rig.claim("t1", holder)).sandbox == sandbox("s1")

    async def test_a_sandbox_that_replaces_one_nobody_could_renounce_is_another_generation(self, rig: Rig) -> None:
        """Redis was away when the holder gave the first one up; the loss was told all the same."""
        await rig.worker()
        holder = await rig.used()
        assert await rig.furnish(holder, ident="s2") == 2
        assert await rig.furnish(holder, ident="s2") == 2
        assert not (await rig.claim("t1", holder)).used


class TestRenounce:
    async def test_what_the_holder_gives_up_may_be_destroyed(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.furnish(holder)
        assert await rig.renounce(holder) == (True, 1)
        claim = await rig.claim("t1", holder)
        assert (claim.sandbox, claim.lost) == (None, "")

    async def test_a_workspace_in_which_something_had_started_is_a_loss_to_be_told(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.hold()
        await rig.furnish(holder)
        await rig.running(holder, rig.call())
        assert await rig.renounce(holder, cause="broken") == (True, 2)
        claim = await rig.claim("t1", holder)
        assert (claim.lost, claim.generation, claim.used) == ("broken", 2, False)

    async def test_another_holders_is_left(self, rig: Rig) -> None:
        await rig.worker("w1", reaches=[HOST])
        holder = await rig.furnished()
        await rig.worker("w2", reaches=[HOST])
        await rig.recover("w1")
        assert await rig.renounce(holder) == (False, 1)

    async def test_one_that_no_lease_names_may_be_destroyed(self, rig: Rig) -> None:
        await rig.worker()
        holder = await rig.furnished()
        await rig.furnish(holder, ident="s2")
        assert (await rig.renounce(holder._replace(boot="long-gone"))).destroy

    async def test_a_closed_trajectory_needs_none(self, rig: Rig) -> None:
        """Also one of which Redis knows nothing more than that it was closed."""
        await rig.state.close("t1")
        assert (await rig.renounce(Holder("w1", "w1-boot", 1))).destroy

    async def test_what_redis_has_forgotten_is_left(self, rig: Rig) -> None:
        assert not (await rig.renounce(Holder("w1", "w1-boot", 1))).destroy

    async def test_one_that_serves_several_in_turn_is_destroyed_by_its_holder_only(self, rig: Rig) -> None:
        """A holder of long ago cannot know whom it serves by now."""
        await rig.producer()
        await rig.worker()
        before = await rig.furnished()
        assert (await rig.state.renounce("t1", before.boot, before.epoch, "s1", "over", reused=True)).destroy
        assert not (await rig.state.renounce("t1", before.boot, before.epoch, "s1", "over", reused=True)).destroy
        assert await rig.state.release("t1", before)
        now = await rig.hold("t2")
        await rig.furnish(now, "t2", "s1")
        assert not (await rig.state.renounce("t1", before.boot, before.epoch, "s1", "late", reused=True)).destroy
        assert (await rig.state.renounce("t2", now.boot, now.epoch, "s1", "over", reused=True)).destroy

    async def test_a_loss_that_its_call_has_told_is_not_told_again(self, rig: Rig) -> None:
        """The holder died after it noted the loss, and before it recorded the call in which it had shown."""
        await rig.worker("w1")
        holder = await rig.hold()
        await rig.furnish(holder)
        await rig.running(holder, rig.call())
        await rig.renounce(holder)
        await rig.recover("w1")
        assert [result.status for result in await rig.results()] == ["lost"]
        await rig.worker("w2")
        assert await rig.told("t1", await rig.hold()) == ""


class TestHeartbeat:
    async def test_a_lease_held_elsewhere_is_lost(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.used()
        await rig.lapse("w1")
        await rig.worker("w2")
        assert (await rig.route()).verdict == "assigned"
        beat = await rig.worker("w1", held=[("t1", 1)])
        assert (beat.lost, beat.unknown, beat.forgotten) == (["t1"], [], [])
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
        assert await rig.state.lapsed(0.0) == [("w1", "w1-boot")]
        assert list(await rig.state.workers()) == ["w2"]
