"""What becomes of the leases of a worker that is gone, when nobody reaches their sandboxes."""

from integration.config.rig import DIED, Rig

from toolfleet.config.answers import Holder


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
        claim = await rig.claim("t1", holder)
        assert claim.generation == 2

    async def test_the_next_claim_tells_nothing_when_a_result_has_told_it(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.running(await rig.hold(), rig.call())
        await rig.recover()
        await rig.worker("w2")
        holder = await rig.hold()
        claim = await rig.claim("t1", holder)
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
        claim = await rig.claim("t1", holder)
        assert (claim.lost, claim.generation) == ("", 1)

    async def test_a_call_outside_the_sandbox_is_unknown_and_neither_loses_nor_tells_of_a_workspace(
        self, rig: Rig
    ) -> None:
        await rig.worker("w1")
        await rig.running(await rig.hold(), rig.call(), outside=True)
        await rig.recover()
        (result,) = await rig.results()
        assert (result.status, result.fault, result.executed) == ("unknown", "infrastructure", "unknown")
        assert result.error == f"{DIED} while the call ran outside the sandbox; what became of it is not known"
        await rig.worker("w2")
        claim = await rig.claim("t1", await rig.hold())
        assert (claim.lost, claim.generation) == ("", 1)

    async def test_a_call_outside_the_sandbox_does_not_tell_the_loss_of_the_one_beside_it(self, rig: Rig) -> None:
        await rig.worker("w1")
        await rig.running(await rig.used(), rig.call(), outside=True)
        await rig.recover()
        assert [result.status for result in await rig.results()] == ["unknown"]
        await rig.worker("w2")
        assert await rig.told("t1", await rig.hold()) == DIED

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
        (gone,) = await rig.state.lapsed(0.0)
        await rig.worker(held=[("t1", 1)])
        assert await rig.recover(*gone, grace=0.0) == 1
        assert await rig.submit(holder, rig.call()) == ["queued"]
        assert "w1" in await rig.state.workers()

    async def test_a_worker_that_stops_need_not_wait_until_it_lapses(self, rig: Rig) -> None:
        await rig.worker()
        await rig.hold()
        await rig.recover()
        assert await rig.state.workers() == {}
        assert await rig.state.lapsed(0.0) == []

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
