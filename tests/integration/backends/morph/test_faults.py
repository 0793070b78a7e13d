"""What goes wrong on the way to a VM and back: nothing runs twice, nothing is left, and a loss says so by type."""

import asyncio
import dataclasses
import functools
import logging
import os
import traceback
from pathlib import Path

import pytest
from integration.backends.morph.rig import OWNER, Make, Vm, profile
from standins.morph.process import StandIn

from toolfleet.backends.channel import ANSWER, Channel
from toolfleet.backends.morph import MorphBackend
from toolfleet.backends.morphvm import install, spec
from toolfleet.backends.morphvm.login import Door, Login
from toolfleet.backends.transports import piped, sealed
from toolfleet.config.errors import BackendUnavailable, SandboxLost, SandboxStartFailed, SpecRefused

_INSTANCE = r"/instance/\w+"


async def test_a_vm_whose_answer_was_lost_is_removed(make: Make, cloud: StandIn) -> None:
    """The request was carried out, and nobody knows the new VM but by what it was marked with."""
    cloud.fault("drop_after", "/instance")
    with pytest.raises(SandboxStartFailed):
        await make()
    assert not cloud.instances()
    await make()


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_cloud_is_a_start_that_may_be_tried_again(make: Make, cloud: StandIn, status: int) -> None:
    """By whoever asked: a repetition below a repetition would multiply. Nothing is asked twice."""
    cloud.fault("status", "/instance", status=status)
    before = len(cloud.requests())
    with pytest.raises(SandboxStartFailed, match=str(status)):
        await make()
    assert cloud.requests()[before:].count("POST /instance") == 1


@pytest.mark.parametrize(
    ("kind", "rest"), [("status", {"status": 502}), ("status", {"status": 429}), ("drop_after", {})]
)
async def test_waiting_for_a_vm_bears_trouble(make: Make, cloud: StandIn, kind: str, rest: dict[str, int]) -> None:
    """The SDK's own wait gives up at the first."""
    cloud.fault(kind, _INSTANCE, method="GET", count=3, **rest)
    assert await (await make()).text("echo on") == "on"


async def test_a_start_that_fails_half_way_leaves_nothing(make: Make, cloud: StandIn) -> None:
    cloud.fault("status", _INSTANCE + "/ssh/key", method="GET", status=400)
    with pytest.raises(SpecRefused):
        await make()
    assert not cloud.instances()


async def test_a_start_that_is_cancelled_leaves_nothing(backend: MorphBackend, cloud: StandIn) -> None:
    cloud.fault("delay", _INSTANCE + "/ssh/key", method="GET", seconds=30.0)
    task = asyncio.create_task(backend.create(profile(), OWNER))

    async def under_way() -> bool:
        return any(request.endswith("/ssh/key") for request in cloud.requests()[before:])

    before = len(cloud.requests())
    await Vm.eventually(under_way)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not cloud.instances()


async def test_a_cut_connection_is_not_a_lost_call(vm: Vm, cloud: StandIn) -> None:
    """The channel connects again and waits for the same call, which has run once."""
    command = "echo run >> /runs; until [ -e /go ]; do sleep 0.01; done; cat /runs"
    running = asyncio.create_task(vm.sh(command, call_id="cut", timeout=60.0))

    async def begun() -> bool:
        return await vm.sandbox.query("cut") == "running"

    await vm.eventually(begun)
    assert cloud.cut(vm.id) == 1
    await vm.text("touch /go")
    assert (await running).stdout == b"run\n"
    assert await vm.sandbox.query("cut") == "finished"


async def test_a_way_in_is_sought_again_through_passing_trouble(vm: Vm, cloud: StandIn) -> None:
    cloud.fault("status", _INSTANCE, method="GET", status=502, count=2)
    cloud.cut(vm.id, refuse=2)
    assert await vm.text("echo on") == "on"


async def test_a_session_that_is_cut_has_not_ended_well(vm: Vm, cloud: StandIn) -> None:
    """Half of what a command printed, and no exit code, never counts as success."""
    session = asyncio.create_task(vm.sandbox.login.run("echo half; touch /begun; sleep 60", patience=60.0))

    async def begun() -> bool:
        return (await vm.sh("test -e /begun")).exit_code == 0

    await vm.eventually(begun)
    cloud.cut(vm.id)
    with pytest.raises(OSError, match=r"SSH|ended"):
        await session


async def test_a_session_that_fails_says_its_own_words(vm: Vm) -> None:
    with pytest.raises(OSError, match="no such thing"):
        await vm.sandbox.login.run("echo half; echo no such thing >&2; exit 3")


async def test_a_vm_that_takes_its_time_to_resume_is_waited_for(make: Make, cloud: StandIn) -> None:
    """For longer than a channel waits for a connection."""
    vm = await make(morph={"pause_after": 0.2})

    async def paused() -> bool:
        return [found["status"] for found in cloud.instances()] == ["paused"]

    await vm.eventually(paused)
    cloud.fault("delay", _INSTANCE + "/resume", seconds=ANSWER + 1)
    assert await vm.text("echo on") == "on"


async def test_what_a_copied_vm_brings_along_is_ended_before_its_own_runner_starts(
    vm: Vm, backend: MorphBackend
) -> None:
    """The cloud's snapshots hold processes, a runner among them; here the first look plays that part."""
    await install.look(vm.sandbox.login, await backend._bundle(), 2**30, 64)
    assert await vm.sandbox.login.run("pgrep -x toolfleet || echo none") == "none\n"
    with pytest.raises(SandboxLost):
        await vm.sh("echo on")


async def test_a_lost_vm_is_told_by_type(vm: Vm, cloud: StandIn) -> None:
    """The call under way learns it, so do those after it, and a ping."""
    running = asyncio.create_task(vm.sh("sleep 60", call_id="under way", timeout=60.0))

    async def begun() -> bool:
        return await vm.sandbox.query("under way") == "running"

    await vm.eventually(begun)
    cloud.lose(vm.id)
    with pytest.raises(SandboxLost, match="404") as lost:
        await running
    assert lost.value.sent
    with pytest.raises(SandboxLost) as lost:
        await vm.sh("echo on")
    assert not lost.value.sent
    with pytest.raises(SandboxLost):
        await vm.sandbox.ping(60.0)


async def test_a_time_to_live_that_ran_out_is_a_loss(vm: Vm, backend: MorphBackend, cloud: StandIn) -> None:
    await backend._account.set_ttl(vm.id, 1)

    async def gone() -> bool:
        return not cloud.instances()

    await vm.eventually(gone)
    with pytest.raises(SandboxLost):
        await vm.sh("echo on")
    with pytest.raises(SandboxLost, match="404"):
        await backend.attach(vm.sandbox.ref)


async def test_a_renewal_that_fails_is_made_up_for_by_the_next_ping(vm: Vm, cloud: StandIn) -> None:
    vm.sandbox._renew_at = 0.0
    cloud.fault("status", _INSTANCE + "/ttl", status=400)
    await vm.sandbox.ping(60.0)
    assert cloud.instances()[0]["ttl"]["ttl_seconds"] == 300
    await vm.sandbox.ping(60.0)
    assert cloud.instances()[0]["ttl"]["ttl_seconds"] == 1200


async def test_a_destruction_survives_a_lost_answer(vm: Vm, cloud: StandIn) -> None:
    cloud.fault("drop_after", _INSTANCE, method="DELETE")
    await vm.sandbox.close()
    assert not cloud.instances()


async def test_several_starts_at_once_get_vms_of_their_own(make: Make) -> None:
    vms = await asyncio.gather(*(make() for _ in range(4)))
    names = await asyncio.gather(*(vm.text("hostname") for vm in vms))
    assert names == [vm.id for vm in vms]
    assert len(set(names)) == 4


async def test_a_command_cannot_speak_to_the_runner(vm: Vm, cloud: StandIn) -> None:
    """The relay is open to it, but what it says is not sealed; neither secret nor key is anywhere in the VM."""
    hello = r"\0\0\0\040\0\0\0\0" + '{"op":"hello","rid":1,"epoch":9}'
    outcome = await vm.sh(f"printf '{hello}' | timeout 5 {install.relay(vm.sandbox.ref.address)} | wc -c")
    assert int(outcome.stdout) <= 16  # the runner's nonce
    await vm.sandbox.claim(1)
    secrets = (cloud.api_key, spec.secret(cloud.api_key, vm.sandbox.ref.address).hex())
    patterns = " ".join(f"-e '[{secret[0]}]{secret[1:]}'" for secret in secrets)  # which do not match themselves
    places = "/proc/[0-9]*/environ /proc/[0-9]*/cmdline /opt /root /run /tmp /var"
    assert (await vm.sh(f"grep -lar {patterns} {places} 2>/dev/null")).stdout == b""
    assert spec.secret(cloud.api_key, "@another") != spec.secret(cloud.api_key, vm.sandbox.ref.address)
    assert spec.secret("another", vm.sandbox.ref.address) != spec.secret(cloud.api_key, vm.sandbox.ref.address)
    stranger = Channel(sealed(piped(vm.sandbox._relay), os.urandom(32)), "stranger")
    with pytest.raises(SandboxLost):
        await stranger.open()


async def test_a_login_with_the_accounts_key_works_as_well(
    make: Make, cloud: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """As the SDK does it; neither a log nor an error tells that key."""
    with caplog.at_level(logging.DEBUG):
        vm = await make(morph={"ssh_login": "api-key"})
        assert await vm.text("echo on") == "on"
        door = await vm.sandbox._door()
        with pytest.raises(OSError, match="refuses the login") as refused:
            await Login(functools.partial(_at, dataclasses.replace(door, user=f"nobody:{cloud.api_key}"))).run("true")
    assert cloud.api_key in door.user
    for text in (caplog.text, repr(door), "".join(traceback.format_exception(refused.value))):
        assert cloud.api_key not in text


async def _at(door: Door) -> Door:
    return door


async def test_a_gateway_with_another_host_key_is_refused(make: Make, tmp_path: Path, cloud: StandIn) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("")
    with pytest.raises(SpecRefused, match="host key"):
        await make(morph={"ssh_known_hosts": str(known)})
    assert not cloud.instances()


async def test_what_is_missing_is_said_with_what_to_do(
    cloud: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MorphBackend(tmp_path)
    monkeypatch.setenv("MORPH_API_KEY", "wrong")
    with pytest.raises(BackendUnavailable, match="MORPH_API_KEY"):
        await backend.probe()
    await backend.shutdown()
    monkeypatch.delenv("MORPH_API_KEY")
    with pytest.raises(BackendUnavailable, match="set MORPH_API_KEY"):
        await backend.probe()
