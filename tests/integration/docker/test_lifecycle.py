"""Containers from creation to the last trace of them."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.docker.conftest import OWNER, profile
from killed_creator import CALL_ID, GO, OUTPUT, orphan

from toolfleet.backends.base import Owner, Request
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.docker import DockerBackend
from toolfleet.config.errors import SandboxLost, SnapshotLost, SpecRefused

if TYPE_CHECKING:
    import docker
    from integration.docker.conftest import Make

TRANSPORTS = pytest.mark.parametrize("transport", ["socket", "relay"])
DISK = {"storage": "disk", "docker": {"unlimited_disk": True, "user": "root"}}


@TRANSPORTS
async def test_a_sandbox_outlives_the_worker_that_made_it(backend: DockerBackend, transport: str) -> None:
    """Killed in the middle of a call; another process lists it, takes it over and gets the outcome."""
    wanted = profile(docker={"transport": transport})
    told = await orphan("docker", backend._runtime_dir, wanted, Owner(OWNER.fleet, "dead"))
    (listed,) = await backend.list(Owner(OWNER.fleet, "dead"))
    assert listed == told
    for ref in (told, listed):
        heir = Box(await backend.attach(ref))
        assert await heir.sandbox.query(CALL_ID) == "running"
        await heir.sandbox.detach()
    heir = Box(await backend.attach(listed))
    await heir.text(GO)
    outcome = await heir.sandbox.run(Request(CALL_ID, "exec", {"command": "must not run"}, 30))
    assert (outcome.stdout, outcome.exit_code) == (OUTPUT, 0)
    await heir.sandbox.close()


async def test_without_the_secret_nobody_gets_in(make: "Make", backend: DockerBackend, tmp_path: Path) -> None:
    """A worker elsewhere needs what the lease carries; neither the label nor the text of a reference holds it."""
    box = await make(docker={"transport": "relay"})
    ref = box.sandbox.ref
    assert ref.secret
    assert ref.secret not in f"{ref!r} {ref}"
    elsewhere = DockerBackend(tmp_path)
    with pytest.raises(SandboxLost, match="not known here"):
        await elsewhere.attach(replace(ref, secret=""))
    with pytest.raises(SandboxLost):
        await elsewhere.attach(replace(ref, secret="00" * 32))
    there = Box(await elsewhere.attach(ref))
    assert await there.text("echo in") == "in"
    await there.sandbox.detach()
    await elsewhere.shutdown()


@TRANSPORTS
async def test_a_sandbox_that_nobody_pings_ends_itself(
    make: "Make", backend: DockerBackend, client: "docker.APIClient", transport: str
) -> None:
    """The engine removes the container by itself, the next listing what is on this machine."""
    box = await make(docker={"transport": transport})
    await box.sh("setsid sleep 60 >/dev/null 2>&1 &")
    await box.sandbox.ping(0.2)
    while client.containers(all=True, filters={"name": f"toolfleet-{box.sandbox.ref.id}"}):
        await asyncio.sleep(0.02)
    with pytest.raises(SandboxLost):
        await box.sandbox.ping(1)
    await box.sandbox.detach()
    assert (backend._root / box.sandbox.ref.id).exists()
    assert await backend.list(Owner("test-fleet-2", "x")) == []
    assert (backend._root / box.sandbox.ref.id).exists()
    assert box.sandbox.ref not in await backend.list()
    assert not (backend._root / box.sandbox.ref.id).exists()


async def test_only_what_is_dead_and_ours_is_removed(
    make: "Make", backend: DockerBackend, client: "docker.APIClient"
) -> None:
    """Half-made containers of a dead process and ended ones go; those of others and of the living stay."""
    other = Owner("test-fleet-2", OWNER.worker_id)
    ours, theirs = await make(), await make(owner=other)
    labels = client.inspect_container(f"toolfleet-{ours.sandbox.ref.id}")["Config"]["Labels"]
    dead = json.dumps({**json.loads(labels["toolfleet.creator"]), "process": {"pid": 1, "start": 1}})
    made = {}
    for name, change in {
        "half-made": {"toolfleet.creator": dead},
        "making": {},
        "their-half": {"toolfleet.creator": dead, "toolfleet.fleet": other.fleet},
    }.items():
        image = client.inspect_container(f"toolfleet-{ours.sandbox.ref.id}")["Image"]
        client.create_container(
            image, ["x"], name=f"toolfleet-{name}", labels={**labels, "toolfleet.id": name, **change}
        )
        made[name] = f"toolfleet-{name}"
    assert await backend.list(OWNER) == [ours.sandbox.ref]
    assert {ref.id for ref in await backend.list()} >= {ours.sandbox.ref.id, theirs.sandbox.ref.id}

    def left() -> set[str]:
        return {name for name in made if client.containers(all=True, filters={"name": made[name]})}

    assert left() == {"making", "their-half"}
    (backend._root / "their-half").mkdir()  # as if it had been made in this runtime directory
    await backend.list()
    assert left() == {"making"}
    assert await theirs.text("echo on") == "on"
    client.remove_container(made["making"])
    await theirs.sandbox.close()


async def test_any_worker_of_the_fleet_removes_what_was_never_started(
    make: "Make", backend: DockerBackend, client: "docker.APIClient", tmp_path: Path
) -> None:
    """Made by a worker of another name, on another machine, which can no more be asked; once it is old enough."""
    box = await make()
    found = client.inspect_container(f"toolfleet-{box.sandbox.ref.id}")
    creator = json.loads(found["Config"]["Labels"]["toolfleet.creator"])
    elsewhere = {"toolfleet.creator": json.dumps({**creator, "host": "another"}), "toolfleet.worker": "worker-9"}
    for name, fleet in {"half-made": OWNER.fleet, "their-half": "test-fleet-2"}.items():
        marks = {**found["Config"]["Labels"], **elsewhere, "toolfleet.id": name, "toolfleet.fleet": fleet}
        client.create_container(found["Image"], ["x"], name=f"toolfleet-{name}", labels=marks)

    def left() -> set[str]:
        made = client.containers(all=True, filters={"status": "created"})
        return {container["Labels"].get("toolfleet.id", "") for container in made}

    await backend.tidy(OWNER.fleet)
    assert left() >= {"half-made", "their-half"}, "it may be about to be started"
    neighbour = DockerBackend(tmp_path, half_made=0.0)
    await neighbour.tidy(OWNER.fleet)
    assert "half-made" not in left()
    assert "their-half" in left()
    assert await box.text("echo on") == "on"
    await neighbour.shutdown()
    client.remove_container("toolfleet-their-half")


async def test_a_cancelled_creation_leaves_nothing(backend: DockerBackend, client: "docker.APIClient") -> None:
    """At whatever moment it is cancelled; the fixture looks for what is left."""
    await (await backend.create(profile(), OWNER)).close()
    for milliseconds in (0, 5, 20, 50, 100, 150, 200, 300):
        creation = asyncio.create_task(backend.create(profile(), OWNER))
        await asyncio.sleep(milliseconds / 1000)
        creation.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await creation).close()
        assert client.containers(all=True, filters={"label": f"toolfleet.fleet={OWNER.fleet}"}) == []
        assert list(backend._root.iterdir()) == []


async def test_a_saved_sandbox_is_where_others_begin(
    make: "Make", backend: DockerBackend, client: "docker.APIClient"
) -> None:
    """Each on its own from there; a dropped snapshot goes with the last of them."""
    first = await make(**DISK)
    await first.text("echo prepared > /root/f")
    snapshot = await first.sandbox.snapshot("saved-1")
    await first.text("echo changed > /root/f")
    forks = [await make(snapshot, **DISK) for _ in range(2)]
    await forks[0].text("echo mine > /root/f")
    assert [await box.text("cat /root/f") for box in (first, *forks)] == ["changed", "mine", "prepared"]
    await backend.drop(snapshot)
    await backend.drop(snapshot)
    assert await forks[1].text("cat /root/f") == "prepared"
    image = client.inspect_container(f"toolfleet-{forks[0].sandbox.ref.id}")["Image"]
    await forks[0].sandbox.close()
    assert client.inspect_image(image)  # type: ignore[no-untyped-call]
    await forks[1].sandbox.close()
    assert image not in {found["Id"] for found in client.images(all=True)}
    with pytest.raises(SnapshotLost, match="no snapshot"):
        await make(snapshot, **DISK)


async def test_a_snapshot_whose_id_never_came_is_dropped_by_its_name(make: "Make", backend: DockerBackend) -> None:
    """The fixture looks for what is left."""
    box = await make(**DISK)
    snapshot = await box.sandbox.snapshot("saved-1")
    await backend.drop("saved-1")
    with pytest.raises(SnapshotLost, match="no snapshot"):
        await make(snapshot, **DISK)


async def test_files_in_memory_cannot_be_saved_and_it_says_so(make: "Make") -> None:
    """A commit would not hold them."""
    box = await make()
    with pytest.raises(SpecRefused, match='needs storage = "disk"'):
        await box.sandbox.snapshot("saved-1")


async def test_processes_of_one_worker_have_clients_of_their_own(backend: DockerBackend, make: "Make") -> None:
    """A fork in which the parent's connections are open: each gets its own answers."""
    box = await make()
    script = f"""
import asyncio, os
from pathlib import Path
from toolfleet.backends.docker import DockerBackend
from toolfleet.backends.base import Owner, SandboxRef

backend = DockerBackend(Path({str(backend._runtime_dir)!r}))
asyncio.run(backend.probe())
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        async def ask():
            return [await backend.list(Owner({OWNER.fleet!r}, {OWNER.worker_id!r})) for _ in range(20)]
        ids = {{ref.id for refs in asyncio.run(ask()) for ref in refs}}
        os._exit(0 if ids == {{{box.sandbox.ref.id!r}}} else 1)
    children.append(pid)
asyncio.run(backend.list())
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-W", "ignore", "-c", script], env={**os.environ})
    assert done.returncode == 0
    assert asdict(box.sandbox.ref)
