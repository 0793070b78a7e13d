"""Sandboxes of Modal and whose they are: owners, heirs and forks."""

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from integration.backends.modal.rig import ME, Create, eventually, profile, sh, text
from killed_creator import CALL_ID, GO, OUTPUT, orphan
from standins.modal.client import StandIn

from toolfleet.backends.base import Owner, SandboxRef
from toolfleet.backends.channel import Fenced
from toolfleet.backends.modal import ModalBackend
from toolfleet.config.errors import SandboxLost, SnapshotLost

#: Who has left a sandbox behind.
DEAD = Owner("f", "dead")


async def test_sandboxes_are_listed_by_owner(create: Create, backend: ModalBackend) -> None:
    """Each fleet and worker sees its own; None sees all."""
    mine, other, stranger = await asyncio.gather(
        create(), create(Owner("fleet", "other")), create(Owner("another fleet", "me"))
    )
    assert await backend.list(ME) == [mine.ref]
    everybody = {sandbox.ref.id for sandbox in (mine, other, stranger)}
    assert {ref.id for ref in await backend.list()} == everybody
    await other.close()
    while await backend.list(Owner("fleet", "other")):
        await asyncio.sleep(0.01)


async def test_a_sandbox_survives_the_worker_that_made_it(
    backend: ModalBackend, modal_cloud: StandIn, tmp_path: Path
) -> None:
    """Killed with SIGKILL in the middle of a call; another process takes over, gets the outcome, and fences it off."""
    ref = await orphan("modal", tmp_path, profile(), DEAD, epoch=1)
    assert [found.id for found in await backend.list(DEAD)] == [ref.id]
    heir = await backend.attach(ref)
    await heir.claim(2)
    assert await heir.query(CALL_ID) == "running"
    await text(heir, GO)
    outcome = await sh(heir, "must not run", call_id=CALL_ID)
    assert (outcome.stdout, outcome.exit_code) == (OUTPUT, 0)
    late = await backend.attach(ref)
    with pytest.raises(Fenced):
        await late.claim(1)
    await late.detach()
    await heir.close()
    await eventually(lambda: not modal_cloud.do("sandboxes"))


async def test_what_a_dead_worker_has_left_can_be_destroyed_by_its_name(
    backend: ModalBackend, modal_cloud: StandIn, tmp_path: Path
) -> None:
    """Without a reference, a handle or a secret; destroying again is no error."""
    await orphan("modal", tmp_path, profile(), DEAD)
    (ref,) = await backend.list(DEAD)
    await backend.destroy(ref)
    await eventually(lambda: not modal_cloud.do("sandboxes"))
    await backend.destroy(ref)
    await backend.destroy(replace(ref, id="sb-v2-unknown"))


async def test_a_reference_travels_as_json(create: Create, backend: ModalBackend) -> None:
    """With the secret in it; one from a listing has none, and opens nothing."""
    sandbox = await create()
    ref = SandboxRef(**json.loads(json.dumps(asdict(sandbox.ref))))
    heir = await backend.attach(ref)
    assert await text(heir, "echo on") == "on"
    await heir.detach()
    (listed,) = await backend.list(ME)
    with pytest.raises(SandboxLost, match="no secret"):
        await backend.attach(listed)


async def test_a_fork_has_the_files_and_not_the_processes(create: Create, backend: ModalBackend) -> None:
    """As they were when the snapshot was taken."""
    sandbox = await create()
    await text(sandbox, "echo one > /root/file; ln -s file /root/link; sleep 600 >/dev/null 2>&1 &")
    snapshot = await sandbox.snapshot("saved-1")
    await text(sandbox, "echo two > /root/file")
    forks = await asyncio.gather(create(origin=snapshot), create(origin=snapshot))
    for fork in forks:
        assert await text(fork, "cat /root/link; pgrep -fx 'sleep 600' || echo alone") == "one\nalone"
    await text(forks[0], "echo three > /root/file")
    assert await text(forks[1], "cat /root/file") == "one"
    await backend.drop(snapshot)
    await backend.drop(snapshot)
    assert await text(forks[1], "cat /root/file") == "one"
    with pytest.raises(SnapshotLost, match="snapshot"):
        await create(origin=snapshot)
