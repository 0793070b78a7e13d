"""What a VM holds is held, and what it cannot hold is refused with a remedy."""

from typing import Any

import pytest
from integration.backends.morph.rig import Make, Vm
from standins.morph.process import StandIn

from toolfleet.backends.morph import MorphBackend
from toolfleet.config.errors import SpecRefused


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"network": "none"}, "bridge"),
        ({"network": "host"}, "bridge"),
        ({"storage": "memory"}, 'storage = "disk"'),
        ({"image": None}, "HECATE_DEFAULT_SNAPSHOT_ID"),
        ({"rootfs": "/srv"}, "no rootfs"),
        ({"disk_mib": 4000}, "disk_mib to 4096"),
        ({"cpu": 0.5}, "morph.vcpus"),
        ({"cpu": 1, "morph": {"vcpus": 2}}, "morph.vcpus"),
        ({"docker": {"runtime": "runsc"}}, "options of docker"),
        ({"env": {"A": "\0"}}, "NUL"),
        ({"image": "snapshot_unknown"}, "snapshot_unknown"),
    ],
    ids=str,
)
async def test_what_cannot_be_held_is_refused(make: Make, cloud: StandIn, fields: dict[str, Any], remedy: str) -> None:
    with pytest.raises(SpecRefused, match=remedy):
        await make(**fields)
    assert not cloud.instances()


async def test_a_vm_has_the_size_that_is_asked_for(make: Make, cloud: StandIn) -> None:
    await make(cpu=2, disk_mib=8192, morph={"vcpus": 2, "vm_memory_mib": 2048, "vm_disk_mib": 8192})
    assert cloud.instances()[0]["spec"] == {"vcpus": 2, "memory": 2048, "disk_size": 8192}


async def test_memory_and_processes_are_limited_inside(make: Make) -> None:
    vm = await make(memory_mib=128, pids=16)
    outcome = await vm.sh("python3 -c 'import time; b = bytearray(400_000_000); time.sleep(20)'")
    assert outcome.exit_code != 0
    outcome = await vm.sh("for n in $(seq 40); do sleep 5 & done; wait", timeout=30.0)
    assert b"fork" in outcome.stderr
    assert await vm.text("echo on") == "on"


async def test_commands_get_the_profiles_variables_and_workdir(make: Make) -> None:
    vm = await make(env={"GREETING": "hallo"}, workdir="/srv")
    assert await vm.text("echo $GREETING $HOME; pwd") == "hallo /root\n/srv"


async def test_the_capabilities_say_what_holds_here(backend: MorphBackend) -> None:
    capabilities = await backend.probe()
    assert capabilities.networks == {"bridge"}
    assert (capabilities.attach, capabilities.snapshot) == ("anywhere", True)


async def test_what_a_vm_is_marked_with(vm: Vm, cloud: StandIn) -> None:
    marks = cloud.instances()[0]["metadata"]
    assert (marks["toolfleet_fleet"], marks["toolfleet_worker"]) == ("test-fleet", "worker-1")
    assert vm.sandbox.ref.address == f"@toolfleet-{marks['toolfleet_attempt']}"


async def test_a_vm_with_cgroups_is_told_its_limits(make: Make, backend: MorphBackend) -> None:
    """No controller can be had on every machine: these are files that look like those of cgroup v2."""
    vm = await make()
    await vm.text("mkdir -p /sys/fs/cgroup && echo memory pids > /sys/fs/cgroup/cgroup.controllers")
    snapshot = await vm.sandbox.snapshot("saved-1")
    limited = await make(origin=snapshot, memory_mib=256, pids=20)
    group = "/sys/fs/cgroup/toolfleet"
    assert await limited.text(f"cat {group}/memory.max {group}/pids.max") == f"{256 * 1024**2}\n22"
    runner = (await limited.text(f"cat {group}/cgroup.procs")).strip()
    # The shell that waits for the runner went into the group, and what it starts is born there.
    assert await limited.sandbox.login.run(f"pgrep -x -P {runner} toolfleet | wc -l") == "1\n"
    await backend.drop(snapshot)
