"""Saved workspaces in Redis: who starts from them, where, and when they go."""

from typing import Any

import pytest
from integration.config.rig import HOST, Rig

from toolfleet.config.answers import Holder
from toolfleet.config.contract import Status
from toolfleet.config.snapshots import Origin, Saved

ELSEWHERE = "host-b"


@pytest.fixture
async def parent(rig: Rig) -> Holder:
    """A trajectory t1 in whose workspace something ran, on a worker of `HOST` with slots to spare."""
    await rig.producer()
    await rig.worker(slots=4, reaches=[HOST])
    return await rig.furnished()


async def due(rig: Rig, *places: str) -> list[str]:
    """The names of the snapshots that are to be dropped, looked for at once."""
    return [found.name for found in await rig.state.due_snapshots(places or [HOST])]


async def look_now(rig: Rig, name: str = "snap") -> None:
    """The time has come at which somebody looks whether it is wanted."""
    await rig.redis.zadd(rig.state.key("snapshots"), {name: 1}, xx=True)


async def test_it_goes_with_the_last_one_that_has_started_from_it(rig: Rig, parent: Holder) -> None:
    """And is asked for again until it is gone."""
    origin = await rig.saved(parent, "a", "b")
    one, other = await rig.hold("a", origin=origin), await rig.hold("b", origin=origin)
    assert (await rig.claim("a", one)).origin == "snap"
    assert await rig.state.saved("snap", "a") == Saved("bubblewrap", "snap-id", HOST, "spec")
    assert await rig.furnish(one, "a", "sa") == 1
    assert (await rig.claim("a", one)).origin == ""
    assert await rig.state.saved("snap", "a") is None, "it was started from already"
    assert await due(rig) == []
    assert await rig.furnish(other, "b", "sb") == 1
    assert await due(rig, ELSEWHERE) == [], "who does not reach it cannot drop it"
    assert await due(rig) == ["snap"]
    assert await due(rig) == [], "somebody is at it"
    await look_now(rig)
    assert await due(rig) == ["snap"]
    await rig.state.dropped("snap")
    for name in ("snapshots", "snapshot:snap", "forks:snap"):
        assert not await rig.redis.exists(f"{rig.state._root}:{name}")


async def test_a_copy_counts_as_used_before_anything_has_started_in_it(rig: Rig, parent: Holder) -> None:
    """Its loss is told, and what comes after it is no copy."""
    origin = await rig.saved(parent, "a")
    holder = await rig.hold("a", origin=origin)
    await rig.furnish(holder, "a", "sa")
    assert (await rig.renounce(holder, "a", "sa", "it broke")) == (True, 2)
    assert await rig.told("a", holder) == "it broke"
    await rig.lapse()
    await rig.recover()
    await rig.worker("w2", slots=4, reaches=[HOST])
    heir = await rig.hold("a", origin=origin)
    claim = await rig.claim("a", heir)
    assert (claim.origin, claim.lost, claim.generation) == ("", "it broke", 2)


async def test_a_holder_that_dies_before_it_has_a_sandbox_costs_nothing(rig: Rig, parent: Holder) -> None:
    """The next one starts from the same copy."""
    origin = await rig.saved(parent, "a")
    await rig.hold("a", origin=origin)
    await rig.worker("w2", slots=4, reaches=[HOST])
    await rig.lapse()
    await rig.recover()
    heir = await rig.hold("a", origin=origin)
    claim = await rig.claim("a", heir)
    assert (heir.worker, claim.origin, claim.lost, claim.generation) == ("w2", "snap", "", 1)
    await look_now(rig)
    assert await due(rig) == []


async def test_a_snapshot_that_is_gone_is_a_loss_to_be_told(rig: Rig, parent: Holder) -> None:
    origin = await rig.saved(parent, "a")
    holder = await rig.hold("a", origin=origin)
    for _ in range(2):  # asking twice, for an answer may be lost
        assert await rig.state.forsake("a", holder.boot, holder.epoch, "gone") == 2
    claim = await rig.claim("a", holder)
    assert (claim.lost, claim.generation, claim.origin) == ("gone", 2, "")
    assert await due(rig) == ["snap"]
    assert await rig.state.forsake("a", "another", holder.epoch, "gone") == 0


@pytest.mark.parametrize("how", ["closed", "closed while it waits", "closed with a slot", "released", "recovered"])
async def test_who_ends_before_it_has_begun_lets_it_go(rig: Rig, parent: Holder, how: str) -> None:
    origin = await rig.saved(parent, "a")
    if how == "closed while it waits":
        await rig.worker(slots=1, reaches=[HOST], held=[("t1", parent.epoch)])
        assert (await rig.route("a", origin=origin)).verdict == "waiting"
    elif how != "closed":
        holder = await rig.hold("a", origin=origin)
    if how != "released":
        await rig.state.close("a", origin)
    if how == "closed with a slot" or how == "released":
        assert await rig.state.release("a", holder)
    if how == "recovered":
        assert await due(rig) == []
        await rig.lapse()
        await rig.recover()
    assert await due(rig) == ["snap"]


async def test_a_producer_that_is_gone_wants_none(rig: Rig, parent: Holder) -> None:
    await rig.saved(parent, "a", "b")
    await look_now(rig)
    assert await due(rig) == []
    await look_now(rig)
    await rig.state.producer_gone("p1")
    assert await due(rig) == ["snap"]


async def test_a_fork_gets_a_slot_only_where_its_copy_is(rig: Rig, parent: Holder) -> None:
    """However much room there is elsewhere; and it is seated before those who came later."""
    origin = await rig.saved(parent, "a", "b", "c", "d")
    await rig.worker("w2", slots=9, reaches=[ELSEWHERE], warm=9)
    for child in ("a", "b", "c"):
        assert (await rig.hold(child, origin=origin)).worker == "w1"
    assert (await rig.route("d", origin=origin)).verdict == "waiting"
    assert (await rig.route("t2")).holder.worker == "w2"  # type: ignore[union-attr]
    assert await rig.state.waiting() == 1
    await rig.replies()
    assert await rig.state.release("t1", Holder("w1", *parent[1:]))
    assert (await rig.placed())["d"].worker == "w1"
    assert (await rig.fields("lease", "d"))["origin"] == "snap"
    assert await rig.state.waiting() == 0


async def test_a_fork_that_nobody_can_serve_is_told_so_and_may_ask_elsewhere(rig: Rig, parent: Holder) -> None:
    """Also when it waits already. Who takes it then learns what it was to start from."""
    origin = await rig.saved(parent, "a", "b")
    await rig.worker(slots=1, reaches=[HOST], held=[("t1", parent.epoch)])
    assert (await rig.route("a", origin=origin)).verdict == "waiting"
    await rig.worker("w2", slots=9, reaches=[ELSEWHERE])
    await rig.lapse()
    for child in ("a", "b"):
        assert (await rig.route(child, origin=origin)).verdict == "unserved"
    holder = await rig.hold("a", origin=Origin("snap", ""))
    assert (holder.worker, (await rig.claim("a", holder)).origin) == ("w2", "snap")


async def test_only_the_holder_saves_and_only_for_who_still_waits(rig: Rig, parent: Holder) -> None:
    call, saved = rig.fork("a"), Saved("bubblewrap", "", HOST, "spec")
    assert not await rig.state.begin_save(call, parent.boot, parent.epoch, "snap", saved), "it has not started"
    await rig.running(parent, call)
    assert not await rig.state.begin_save(call, "another", parent.epoch, "snap", saved)
    assert await rig.state.begin_save(call, parent.boot, parent.epoch, "snap", saved)
    assert await due(rig) == [], "it is being saved"
    await rig.give_up(call)
    assert await due(rig) == ["snap"]
    assert not await rig.state.end_save(call, parent.boot, parent.epoch, "snap", "snap-id")
    assert await due(rig) == ["snap"], "now it may exist"


async def test_a_save_begun_by_an_earlier_holder_is_not_wanted(rig: Rig, parent: Holder) -> None:
    """Neither its own nor anybody's, even if it ends after all."""
    call, saved = rig.fork("a"), Saved("bubblewrap", "", HOST, "spec")
    await rig.running(parent, call)
    assert await rig.state.begin_save(call, parent.boot, parent.epoch, "first", saved)
    await rig.worker("w2", slots=4, reaches=[HOST])
    await rig.lapse()
    await rig.recover()
    heir = (await rig.route()).holder
    assert heir
    assert await rig.state.begin_save(call, heir.boot, heir.epoch, "second", saved)
    assert await due(rig) == ["first"]
    assert not await rig.state.end_save(call, parent.boot, parent.epoch, "first", "first-id")
    assert await rig.state.end_save(call, heir.boot, heir.epoch, "second", "second-id")
    assert await rig.state.saved("second", "a") == Saved("bubblewrap", "second-id", HOST, "spec")


@pytest.mark.parametrize("how", ["failed", "cancelled", "producer gone", "worker gone"])
async def test_a_fork_that_nobody_hears_of_is_not_wanted(rig: Rig, parent: Holder, how: str) -> None:
    call: Any = rig.fork("a")
    await rig.running(parent, call)
    assert await rig.state.begin_save(call, parent.boot, parent.epoch, "snap", Saved("bubblewrap", "", HOST, "spec"))
    assert await rig.state.end_save(call, parent.boot, parent.epoch, "snap", "snap-id")
    if how == "cancelled":
        await rig.give_up(call, leave_running=True)
    if how == "producer gone":
        await rig.state.producer_gone("p1")
    if how == "worker gone":
        await rig.renounce(parent)
        await rig.lapse()
        await rig.recover()
    else:
        status = Status.FAILED if how == "failed" else Status.OK
        assert await rig.finish(parent, call, status=status) == ["done"]
    assert await due(rig) == ["snap"]


async def test_a_redis_that_has_lost_its_state_makes_no_empty_copy_in_silence(rig: Rig, parent: Holder) -> None:
    """Its worker is told to start from something that is not there, which it tells."""
    origin = await rig.saved(parent, "a")
    await rig.redis.flushall()
    await rig.producer()
    await rig.worker(slots=4, reaches=[HOST])
    holder = await rig.hold("a", origin=origin)
    assert (await rig.claim("a", holder)).origin == "snap"
    assert await rig.state.saved("snap", "a") is None
