"""When Redis has lost its state: heartbeats find it out, holders announce their leases, the rest begins anew."""

from integration.config.rig import HOST, Rig

from toolfleet.config.answers import Holder

FIRST = Holder("w1", "w1-boot", 3)


class TestHeartbeat:
    async def test_a_lease_that_redis_does_not_know_is_forgotten_and_not_lost(self, rig: Rig) -> None:
        beat = await rig.worker(held=[("t1", 3)])
        assert (beat.forgotten, beat.lost) == (["t1"], [])

    async def test_its_slot_is_not_given_to_one_who_waits(self, rig: Rig) -> None:
        """Every slot of a busy fleet would be given twice after Redis came back empty."""
        await rig.worker("w2", accepting=False)
        assert (await rig.route("t2")).verdict == "waiting"
        await rig.worker("w1", held=[("t1", 3)])
        assert await rig.placed() == {}
        assert await rig.leases() == {"t1"}

    async def test_a_slot_that_was_kept_for_nothing_is_given_back(self, rig: Rig) -> None:
        await rig.worker(held=[("t1", 3)])
        await rig.worker()
        assert await rig.leases() == set()


class TestRoute:
    async def test_forgotten_while_the_holder_may_come_forward(self, rig: Rig) -> None:
        await rig.worker()
        assert (await rig.route(known=3)).verdict == "forgotten"
        assert await rig.announce(FIRST)
        route = await rig.route(known=3)
        assert (route.verdict, route.holder) == ("held", FIRST)

    async def test_anew_the_epoch_rises_and_the_loss_is_told(self, rig: Rig) -> None:
        await rig.worker()
        holder = (await rig.route(known=3, forgotten="tell")).holder
        assert holder == Holder("w1", "w1-boot", 4)
        claim = await rig.claim("t1", holder)
        assert (claim.lost, claim.generation) == ("Redis lost its state", 2)

    async def test_anew_a_loss_that_was_told_is_not_told_again(self, rig: Rig) -> None:
        await rig.worker()
        holder = (await rig.route(known=3, forgotten="told")).holder
        assert holder
        assert (await rig.claim("t1", holder)).lost == ""

    async def test_the_loss_outlives_a_wait_that_was_given_up(self, rig: Rig) -> None:
        await rig.worker("w1", accepting=False)
        assert (await rig.route(known=3, forgotten="tell")).verdict == "waiting"
        await rig.state.leave("t1")
        await rig.worker("w1")
        assert await rig.told("t1", await rig.hold()) == "Redis lost its state"

    async def test_the_loss_is_told_also_when_another_producer_was_waiting_already(self, rig: Rig) -> None:
        await rig.producer("p2")
        await rig.worker("w1", accepting=False)
        assert (await rig.route(producer="p2")).verdict == "waiting"
        assert (await rig.route(known=3, forgotten="tell")).verdict == "waiting"
        await rig.worker("w1")
        holder = (await rig.placed())["t1"]
        assert holder.epoch == 4
        assert await rig.told("t1", holder) == "Redis lost its state"

    async def test_a_forgotten_trajectory_that_waits_can_be_closed(self, rig: Rig) -> None:
        await rig.worker("w1", accepting=False)
        await rig.route(known=3, forgotten="tell")
        assert await rig.state.close("t1") is None
        assert (await rig.route()).verdict == "closed"


class TestAnnounce:
    async def test_redis_learns_the_lease_again(self, rig: Rig) -> None:
        await rig.worker()
        assert await rig.announce(FIRST, generation=2, lost="broken")
        claim = await rig.claim("t1", FIRST)
        assert (claim.generation, claim.lost, claim.used, claim.producer) == (2, "broken", True, "p1")
        assert claim.sandbox
        assert claim.sandbox["id"] == "s1"
        assert await rig.leases() == {"t1"}
        assert (await rig.worker(held=[("t1", 3)])).forgotten == []

    async def test_the_later_of_two_holders_of_a_workspace_wins(self, rig: Rig) -> None:
        """The first was paused when its lease was handed over, and is quicker now."""
        for name in ("w1", "w2"):
            await rig.worker(name, reaches=[HOST])
        assert await rig.announce(FIRST)
        await rig.running(FIRST, rig.call("c1"))
        await rig.submit(FIRST, rig.call("c2"))
        second = Holder("w2", "w2-boot", 4)
        assert await rig.announce(second)
        assert (await rig.leases("w1"), await rig.leases("w2")) == (set(), {"t1"})
        assert await rig.replies() == [("moved", "c2", "t1")]
        assert (await rig.claim("t1", second)).started == ["c1"]
        assert not await rig.announce(FIRST)

    async def test_a_workspace_that_was_begun_anew_is_not_taken_away(self, rig: Rig) -> None:
        """Its producer was told that the one before is gone."""
        await rig.worker("w2")
        anew = (await rig.route(known=1, forgotten="tell")).holder
        assert anew == Holder("w2", "w2-boot", 2)
        await rig.worker("w1", held=[("t1", 3)])
        assert not await rig.announce(FIRST)
        assert (await rig.route()).holder == anew
        assert await rig.leases("w1") == set()
        assert (await rig.renounce(FIRST)).destroy

    async def test_a_trajectory_that_was_closed_stays_closed(self, rig: Rig) -> None:
        await rig.worker(held=[("t1", 3)])
        await rig.state.close("t1")
        assert not await rig.announce(FIRST)
        assert (await rig.route()).verdict == "closed"
        assert await rig.leases() == set()

    async def test_who_waits_for_a_slot_is_led_to_the_holder(self, rig: Rig) -> None:
        """A trainer that was restarted knows nothing of the lease; it must not get a second one."""
        await rig.producer("p2")
        await rig.worker("w1", held=[("t1", 3)])
        assert (await rig.route(producer="p2")).verdict == "waiting"
        assert await rig.announce(FIRST)
        assert await rig.placed("p2") == {"t1": FIRST}
        assert (await rig.fields("lease", "t1"))["producer"] == "p2"
        await rig.worker("w2")
        assert (await rig.leases("w1"), await rig.leases("w2")) == ({"t1"}, set())

    async def test_a_closing_trajectory_stays_so(self, rig: Rig) -> None:
        """Redis came back with an older state, in which another worker held the same workspace."""
        await rig.worker("w1", reaches=[HOST])
        await rig.furnished()
        await rig.state.close("t1")
        await rig.worker("w2", reaches=[HOST])
        second = Holder("w2", "w2-boot", 2)
        assert await rig.announce(second)
        assert (await rig.route()).verdict == "closed"
        assert (await rig.worker("w2", held=[("t1", 2)])).closing == ["t1"]
