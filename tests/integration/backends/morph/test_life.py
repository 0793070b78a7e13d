"""A sandbox on MorphCloud from its VM's start to its end, and from one process to another."""

import asyncio
import subprocess
import sys

import pytest
from integration.backends.morph.rig import Make, Vm, profile
from killed_creator import CALL_ID, GO, OUTPUT, orphan
from standins.morph.process import StandIn

from toolfleet.backends.base import Owner, Request
from toolfleet.backends.channel import Fenced
from toolfleet.backends.morph import MorphBackend
from toolfleet.config.errors import SandboxLost, SnapshotLost


async def test_commands_run_and_files_stay(vm: Vm, cloud: StandIn) -> None:
    """Over SSH alone: the SDK's exec, which may run a command twice, is not used."""
    outcome = await vm.sh("echo out; echo err >&2; exit 3")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (3, b"out\n", b"err\n")
    await vm.text("echo kept > /root/file")
    assert await vm.text("cat /root/file; id -u; pwd") == "kept\n0\n/"
    assert not [request for request in cloud.requests() if "/exec" in request]


async def test_a_command_past_its_deadline_is_killed_with_all_it_started(vm: Vm) -> None:
    outcome = await vm.sh("echo begun; (setsid sleep 987 &) ; sleep 986", timeout=1.0)
    assert (outcome.timed_out, outcome.exit_code, outcome.stdout) == (True, 124, b"begun\n")
    assert (await vm.sh("pgrep -f 'sleep 98[67]'")).exit_code == 1


async def test_a_large_file_arrives_as_it_was_sent(vm: Vm) -> None:
    content = bytes(range(256)) * 80_000
    outcome = await vm.sandbox.run(Request("w", "write", {"path": "/data/large"}, 60.0, content))
    assert outcome.detail["bytes"] == len(content)
    assert await vm.text("sha256sum < /data/large") == f"{outcome.detail['sha256']}  -"


async def test_closing_ends_the_vm_and_can_be_repeated(make: Make, backend: MorphBackend, cloud: StandIn) -> None:
    vm = await make()
    await vm.sandbox.close()
    assert not cloud.instances()
    await backend.destroy(vm.sandbox.ref)


async def test_the_runner_is_uploaded_once_for_each_image(make: Make, backend: MorphBackend, cloud: StandIn) -> None:
    """The second VM comes from a snapshot with the runner in it; another process finds that too."""
    first = await make()
    second = await make()
    other = MorphBackend(backend._runtime_dir)
    (prepared,) = [found for found in cloud.snapshots() if found["metadata"] == {"toolfleet": "prepared"}]
    assert prepared["digest"].endswith("-snapshot_base")
    assert prepared["ttl"]["ttl_seconds"] == 7 * 24 * 3600
    third = await other.create(profile(), Owner("test-fleet", "worker-2"))
    sources = {found["id"]: found["refs"]["snapshot_id"] for found in cloud.instances()}
    assert [sources[name] for name in (second.id, third.ref.id)] == [prepared["id"]] * 2
    await third.close()
    await other.shutdown()
    await first.text("true")


async def test_a_prepared_snapshot_that_vanished_is_done_without(
    make: Make, backend: MorphBackend, cloud: StandIn
) -> None:
    await make()
    await make()
    (prepared,) = [found for found in cloud.snapshots() if found["digest"]]
    await backend.drop(prepared["id"])
    assert await (await make()).text("echo on") == "on"


async def test_without_prepared_snapshots_every_vm_gets_an_upload(make: Make, cloud: StandIn) -> None:
    before = len(cloud.snapshots())
    vm = await make(morph={"prepared_ttl": 0})
    assert await vm.text("echo on") == "on"
    assert len(cloud.snapshots()) == before


async def test_a_fork_has_the_files_and_a_runner_of_its_own(make: Make, backend: MorphBackend, cloud: StandIn) -> None:
    vm = await make()
    await vm.text("echo v1 > /root/state; sleep 500 > /dev/null 2>&1 &")
    snapshot = await vm.sandbox.snapshot("saved-1")
    (kept,) = [found for found in cloud.snapshots() if found["id"] == snapshot]
    assert kept["ttl"]["ttl_seconds"] == 24 * 3600
    forks = await asyncio.gather(*(make(origin=snapshot) for _ in range(2)))
    await forks[0].text("echo v2 > /root/state")
    assert [await each.text("cat /root/state") for each in (vm, *forks)] == ["v1", "v2", "v1"]
    assert len({each.sandbox.ref.address for each in (vm, *forks)}) == 3
    await backend.drop(snapshot)
    await backend.drop(snapshot)
    assert await forks[1].text("cat /root/state") == "v1"
    with pytest.raises(SnapshotLost, match=snapshot):
        await make(origin=snapshot)


async def test_a_snapshot_whose_id_never_came_is_dropped_by_its_name(
    make: Make, backend: MorphBackend, cloud: StandIn
) -> None:
    vm = await make()
    mine, other = await vm.sandbox.snapshot("saved-1"), await vm.sandbox.snapshot("saved-2")
    await backend.drop("saved-1")
    left = {found["id"] for found in cloud.snapshots()}
    assert (mine in left, other in left) == (False, True)
    await backend.drop(other)


async def test_sandboxes_are_listed_by_owner_and_nobody_elses(
    make: Make, backend: MorphBackend, cloud: StandIn
) -> None:
    mine = await make()
    colleague = await make(Owner("test-fleet", "worker-2"))
    stranger = await make(Owner("other-fleet", "worker-1"))
    foreign = await backend._account.start("snapshot_base", {"metadata": {"made": "by hand"}})
    assert await backend.list(Owner("test-fleet", "worker-1")) == [mine.sandbox.ref]
    assert {ref.id for ref in await backend.list()} == {mine.id, colleague.id, stranger.id}
    await backend._account.ready(foreign.id, 30.0)
    await backend._account.stop(foreign.id)


async def test_another_process_takes_over_when_the_creator_is_killed(make: Make, backend: MorphBackend) -> None:
    """With nothing but the reference: the running call goes on, and its outcome is the first and only one."""
    doomed = Owner("test-fleet", "doomed")
    ref = await orphan("morph", backend._runtime_dir, profile(), doomed, epoch=1)
    assert await backend.list(doomed) == [ref]
    assert not ref.secret
    heir = Vm(await backend.attach(ref))
    await heir.sandbox.claim(2)
    assert await heir.sandbox.query(CALL_ID) == "running"
    again = asyncio.create_task(heir.sh("must not run", call_id=CALL_ID, timeout=60.0))
    await heir.text(GO)
    assert (await again).stdout == OUTPUT
    await heir.sandbox.close()


async def test_a_stale_holder_is_refused(vm: Vm, backend: MorphBackend) -> None:
    await vm.sandbox.claim(3)
    heir = await backend.attach(vm.sandbox.ref)
    await heir.claim(4)
    with pytest.raises(Fenced):
        await vm.sh("touch /stale")
    with pytest.raises(Fenced):
        await vm.sandbox.ping(1.0)
    await heir.detach()


async def test_a_vm_is_paused_between_turns_and_resumed_by_the_next(
    make: Make, backend: MorphBackend, cloud: StandIn
) -> None:
    vm = await make(morph={"pause_after": 0.3})
    await vm.text("while :; do date +%N > /tick; sleep 0.01; done > /dev/null 2>&1 < /dev/null &")

    async def paused() -> bool:
        return [found["status"] for found in cloud.instances()] == ["paused"]

    for _ in range(2):
        await vm.eventually(paused)
        await vm.sandbox.ping(60.0)
        assert await paused()
        await _ticks(vm)
    await vm.eventually(paused)
    heir = await backend.attach(vm.sandbox.ref)
    assert await heir.query("unknown") == "unknown"
    await heir.detach()


async def _ticks(vm: Vm) -> None:
    """The process that was left behind goes on."""
    before = await vm.text("cat /tick")

    async def went_on() -> bool:
        return await vm.text("cat /tick") != before

    await vm.eventually(went_on)


async def test_a_time_to_live_is_renewed_while_somebody_pings(vm: Vm, cloud: StandIn) -> None:
    """A VM that nobody has taken yet has a short one."""
    assert cloud.instances()[0]["ttl"]["ttl_seconds"] == 300
    vm.sandbox._renew_at = 0.0
    await vm.sandbox.ping(60.0)
    assert (cloud.instances()[0]["ttl"]["ttl_seconds"], cloud.instances()[0]["ttl"]["ttl_action"]) == (1200, "stop")


async def test_a_runner_that_nobody_pings_ends_what_runs(vm: Vm, backend: MorphBackend) -> None:
    await vm.text("sleep 500 > /dev/null 2>&1 &")
    await vm.sandbox.ping(0.5)
    await vm.sandbox.detach()

    async def lost() -> bool:
        try:
            await (await backend.attach(vm.sandbox.ref)).detach()
        except SandboxLost:
            return True
        return False

    await vm.eventually(lost)


_FORKED = """
import asyncio, os, sys
from pathlib import Path
from toolfleet.backends import registry

backend = registry.load("morph", Path(sys.argv[1]))

async def ask():
    assert [ref.id for ref in await backend.list()] == [sys.argv[2]]
    return backend._account._client

before = asyncio.run(ask())
child = os.fork()
assert asyncio.run(ask()) is not before
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


async def test_each_process_and_each_loop_has_connections_of_its_own(
    vm: Vm, backend: MorphBackend, environment: dict[str, str]
) -> None:
    """A client that two processes share hands one the answers of the other."""
    command = [sys.executable, "-c", _FORKED, str(backend._runtime_dir), vm.id]
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
