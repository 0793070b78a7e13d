"""Sandboxes of Modal that are lost, connections to them that are, and what a caller hears of it."""

import asyncio

import pytest
from integration.backends.modal.rig import Create, eventually, sh, text, until_running
from standins.modal.client import StandIn

from toolfleet.backends import channel
from toolfleet.backends.modal import ModalBackend
from toolfleet.config.errors import SandboxLost


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("KERNEL_OOM_KILL", "out of memory"),
        ("TERMINATED", "a preemption"),
        ("IDLE_TIMEOUT", "found it idle"),
        ("INTERNAL_FAILURE", "failed internally"),
        ("TIMEOUT", "lifetime is over"),
    ],
)
async def test_a_loss_under_a_call_names_its_cause(create: Create, modal_cloud: StandIn, status: str, why: str) -> None:
    """Long before the call's own deadline; two of these the SDK takes for an ordinary end."""
    sandbox = await create()
    running = asyncio.create_task(sh(sandbox, "sleep 600", timeout=600, call_id="long"))
    await until_running(sandbox, "long")
    modal_cloud.do("end", sandbox_id=sandbox.ref.id, status=status)
    async with asyncio.timeout(30):
        with pytest.raises(SandboxLost, match=why) as lost:
            await running
    assert lost.value.sent
    with pytest.raises(SandboxLost, match=why):
        await sandbox.ping(30)


async def test_a_lost_machine_is_told_as_such(create: Create, modal_cloud: StandIn) -> None:
    """Modal knows the sandbox no more."""
    sandbox = await create()
    running = asyncio.create_task(sh(sandbox, "sleep 600", timeout=600, call_id="long"))
    await until_running(sandbox, "long")
    modal_cloud.do("lose", sandbox_id=sandbox.ref.id)
    async with asyncio.timeout(30):
        with pytest.raises(SandboxLost, match="its machine is lost"):
            await running


async def test_a_silent_machine_is_found_out_by_the_next_ping(
    create: Create, modal_cloud: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes all and answers nothing: the call does not wait for its own deadline."""
    monkeypatch.setattr(channel, "ANSWER", 1.0)
    sandbox = await create()
    running = asyncio.create_task(sh(sandbox, "sleep 600", timeout=600, call_id="long"))
    await until_running(sandbox, "long")
    for rpc in ("TaskExecStdinWrite", "TaskExecStart", "SandboxWaitV2"):
        modal_cloud.fault(rpc, kind="hang", count=1000)
    async with asyncio.timeout(60):
        with pytest.raises(SandboxLost):
            await sandbox.ping(30)
        with pytest.raises(SandboxLost):
            await running


async def test_a_cut_connection_disturbs_nobody(create: Create, modal_cloud: StandIn) -> None:
    """The SDK goes on where it was, in both directions."""
    sandbox = await create()
    running = asyncio.create_task(sh(sandbox, "until [ -e /go ]; do sleep 0.01; done; seq 20000", call_id="cut"))
    await until_running(sandbox, "cut")
    assert modal_cloud.do("cut") > 0
    modal_cloud.fault("TaskExecStdinWrite", when="after", kind="drop", count=2)
    await text(sandbox, "touch /go")
    assert (await running).stdout.split() == [str(number).encode() for number in range(1, 20001)]


async def test_a_relay_that_ends_is_replaced(create: Create, modal_cloud: StandIn) -> None:
    """The call runs once, and its outcome comes over the next relay."""
    sandbox = await create()
    running = asyncio.create_task(
        sh(sandbox, "echo ran >> /log; until [ -e /go ]; do sleep 0.01; done", call_id="once")
    )
    await until_running(sandbox, "once")
    assert modal_cloud.do("kill_exec", sandbox_id=sandbox.ref.id) == 1
    await text(sandbox, "touch /go")
    assert (await running).exit_code == 0
    assert await text(sandbox, "cat /log") == "ran"


async def test_a_detached_sandbox_keeps_no_relay(create: Create, backend: ModalBackend, modal_cloud: StandIn) -> None:
    """They would pile up in it with every worker that comes and goes."""
    sandbox = await create()
    await sandbox.detach()
    heir = await backend.attach(sandbox.ref)
    (made,) = modal_cloud.do("sandboxes")
    assert sorted(made["execs"].values()) == [False, True]
    assert await text(heir, "echo on") == "on"
    await heir.close()


async def test_a_sandbox_that_nobody_pings_ends_itself(create: Create, modal_cloud: StandIn) -> None:
    """And Modal takes the container away, for its entrypoint has ended."""
    sandbox = await create()
    await sandbox.ping(0.3)
    await eventually(lambda: not modal_cloud.do("sandboxes"))
    with pytest.raises(SandboxLost, match="its runner has ended"):
        await sandbox.ping(30)
