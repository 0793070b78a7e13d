"""Sandboxes from creation to the last trace of them."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Awaitable
from dataclasses import asdict

from toolfleet.backends.base import Owner, SandboxRef
from toolfleet.backends.conformance.core import Rig, check
from toolfleet.config.errors import SandboxLost, SnapshotLost, SpecRefused


@check
async def a_closed_sandbox_is_gone(rig: Rig) -> None:
    """Closing and destroying again is no error; using it says that it is lost, and that nothing was sent."""
    box = await rig.box()
    await box.sh("setsid sleep 9001 >/dev/null 2>&1 & disown")
    await box.sandbox.close()
    assert await rig.backend.list(rig.owner) == []
    await box.sandbox.close()
    await rig.backend.destroy(box.sandbox.ref)
    assert not await _lost(box.sh("true"))
    with contextlib.suppress(SandboxLost):
        await rig.backend.attach(box.sandbox.ref)
        raise AssertionError("it can still be attached to")


@check
async def sandboxes_are_listed_by_owner(rig: Rig) -> None:
    """Each fleet and worker sees its own; None sees all."""
    other = Owner(rig.owner.fleet, f"{rig.owner.worker_id}-2")
    one, two = await rig.box(), await rig.box(owner=other)
    assert await rig.backend.list(rig.owner) == [one.sandbox.ref]
    assert {ref.id for ref in await rig.backend.list()} >= {one.sandbox.ref.id, two.sandbox.ref.id}
    assert await rig.backend.list(Owner(f"{rig.owner.fleet}-2", rig.owner.worker_id)) == []
    await one.sandbox.close()
    assert await rig.backend.list(rig.owner) == []
    assert await rig.backend.list(other) == [two.sandbox.ref]


@check
async def a_reference_is_all_that_another_worker_needs(rig: Rig) -> None:
    """As it is kept in Redis: it names the backend, and a place that who may attach to it reaches."""
    box = await rig.box()
    kept = json.dumps(asdict(box.sandbox.ref))
    ref = SandboxRef(**json.loads(kept))
    assert ref == box.sandbox.ref
    assert ref.backend == rig.backend.name
    capabilities = await rig.backend.probe()
    if capabilities.attach == "never":
        return
    assert ref.place in capabilities.places
    await box.text("echo kept > /tmp/f")
    await box.sandbox.detach()
    assert await (await rig.attached(ref)).text("cat /tmp/f") == "kept"


@check
async def many_sandboxes_start_side_by_side(rig: Rig) -> None:
    """And every one is its own."""
    boxes = await asyncio.gather(*(rig.box() for _ in range(8)))
    assert {ref.id for ref in await rig.backend.list(rig.owner)} == {box.sandbox.ref.id for box in boxes}
    assert len({box.sandbox.ref.id for box in boxes}) == 8
    await asyncio.gather(*(box.sandbox.close() for box in boxes))
    assert await rig.backend.list(rig.owner) == []


@check
async def a_sandbox_that_nobody_pings_ends_itself(rig: Rig) -> None:
    """With everything in it; it is listed no more."""
    box = await rig.box()
    await box.sandbox.ping(30)
    await box.sandbox.ping(0.2)

    async def gone() -> bool:
        return await rig.backend.list(rig.owner) == []

    await box.eventually(gone)
    await _lost(box.sandbox.ping(1))


@check
async def a_cancelled_creation_leaves_nothing(rig: Rig) -> None:
    """At whatever moment it is cancelled."""
    for milliseconds in (0, 5, 20, 50, 100, 200):
        creation = asyncio.create_task(rig.box())
        await asyncio.sleep(milliseconds / 1000)
        creation.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await creation).sandbox.close()
        assert await rig.backend.list(rig.owner) == [], milliseconds


@check
async def a_snapshot_is_where_others_begin_or_is_refused(rig: Rig) -> None:
    """Each on its own from there, until it is dropped; a backend, or a profile, that cannot do it says so."""
    box = await rig.box()
    await box.text("echo prepared > /tmp/f")
    try:
        snapshot = await box.sandbox.snapshot(secrets.token_hex(8))
    except SpecRefused as refused:
        assert len(str(refused)) > 20
        assert await box.text("cat /tmp/f") == "prepared"
        return
    await box.text("echo changed > /tmp/f")
    forks = [await rig.box(origin=snapshot) for _ in range(2)]
    await forks[0].text("echo mine > /tmp/f")
    assert [await each.text("cat /tmp/f") for each in (box, *forks)] == ["changed", "mine", "prepared"]
    await rig.backend.drop(snapshot)
    await rig.backend.drop(snapshot)
    assert await forks[1].text("cat /tmp/f") == "prepared"
    with contextlib.suppress(SnapshotLost):
        await rig.box(origin=snapshot)
        raise AssertionError("a sandbox starts from a snapshot that was dropped")


@check
async def a_used_sandbox_is_made_pristine_or_is_not_used_again(rig: Rig) -> None:
    """Files, processes, calls and epochs of whom it served before are gone; a backend that does not reset says so."""
    box = await rig.box()
    await box.sandbox.claim(3)
    await box.sh("echo left > /tmp/.left; (setsid sleep 9001 > /dev/null 2>&1 &)", call_id="theirs")
    try:
        await box.sandbox.reset()
    except SpecRefused as refused:
        assert len(str(refused)) > 20
        return
    await box.sandbox.claim(1)
    assert await box.sandbox.query("theirs") == "unknown"
    assert await box.text("ls -A /tmp | wc -l") == "0"
    assert await box.alive("sleep 9001") == []


@check
async def a_sandbox_that_is_ended_from_outside_is_a_typed_loss(rig: Rig) -> None:
    """As by its provider's own clock: the call in flight had been sent, the next one provably never was."""
    box = await rig.box()
    running = asyncio.create_task(box.sh("sleep 9001", timeout=600, call_id="running"))
    await box.eventually(lambda: box.runs("running"))
    await rig.backend.destroy(box.sandbox.ref)
    assert await _lost(running)
    assert not await _lost(box.sh("true"))
    await _lost(box.sandbox.ping(30))


async def _lost(attempt: Awaitable[object]) -> bool:
    """Whether an attempt that must fail had been sent."""
    try:
        await attempt
    except SandboxLost as lost:
        return lost.sent
    raise AssertionError("it did not fail")
