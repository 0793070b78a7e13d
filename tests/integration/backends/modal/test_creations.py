"""Creations at Modal that go wrong: throttled, unanswered, given up, cancelled."""

import asyncio
from dataclasses import asdict

import pytest
from integration.backends.modal.rig import ME, Create, eventually, profile, text
from standins.modal.client import StandIn

from toolfleet.backends.modal import ModalBackend
from toolfleet.backends.modal_cloud import spec
from toolfleet.backends.runner.config import Config
from toolfleet.config.errors import SandboxStartFailed


@pytest.mark.parametrize("honoured", [True, False])
async def test_a_creation_whose_answer_is_lost_leaves_one_sandbox(
    create: Create, backend: ModalBackend, modal_cloud: StandIn, honoured: bool
) -> None:
    """Also where Modal makes a second one for the SDK's second request: the next tidying removes the first."""
    modal_cloud.do("idempotency", on=honoured)
    modal_cloud.fault("SandboxCreateV2", when="after", kind="drop")
    sandbox = await create()
    assert len(modal_cloud.do("sandboxes")) == (1 if honoured else 2)
    await backend.tidy()
    await eventually(lambda: [made["id"] for made in modal_cloud.do("sandboxes")] == [sandbox.ref.id])
    assert await text(sandbox, "echo on") == "on"


async def test_throttling_with_a_policy_is_waited_out(create: Create, modal_cloud: StandIn) -> None:
    """As Modal says."""
    modal_cloud.fault("SandboxCreateV2", status="RESOURCE_EXHAUSTED", retry_after=0.1, count=3)
    assert await text(await create(), "echo on") == "on"


@pytest.mark.parametrize("retry_after", [None, 30.0])
async def test_throttling_ends_in_an_error_that_can_be_retried(
    create: Create, modal_cloud: StandIn, monkeypatch: pytest.MonkeyPatch, retry_after: float | None
) -> None:
    """At once without a policy; with one when the time for a start is over, which the SDK alone would wait for ever."""
    if retry_after:
        monkeypatch.setattr("toolfleet.backends.modal._START", 1.0)
    monkeypatch.setattr("toolfleet.backends.modal._SETTLE", 0.1)
    modal_cloud.fault("SandboxCreateV2", status="RESOURCE_EXHAUSTED", retry_after=retry_after, count=1000)
    with pytest.raises(SandboxStartFailed, match="no answer within 1 s" if retry_after else "too many requests"):
        await create()


async def test_a_creation_that_is_given_up_leaves_nothing(
    create: Create, backend: ModalBackend, modal_cloud: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although Modal makes the sandbox, and only its answer is missing."""
    monkeypatch.setattr("toolfleet.backends.modal._START", 1.0)
    monkeypatch.setattr("toolfleet.backends.modal._SETTLE", 0.1)
    modal_cloud.fault("SandboxCreateV2", when="after", kind="hang")
    with pytest.raises(SandboxStartFailed, match="no answer"):
        await create()
    while modal_cloud.do("sandboxes"):
        await backend.tidy()  # a slow machine has only now made what it was asked for


async def test_a_sandbox_that_appears_too_late_is_removed_by_the_next_tidying(
    backend: ModalBackend, modal_cloud: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt was given up, and nothing could be cleaned up then."""
    monkeypatch.setattr("toolfleet.backends.modal._SETTLE", 0.1)
    modal_cloud.fault("SandboxListV2", status="INVALID_ARGUMENT")
    modal_cloud.fault("SandboxCreateV2", when="after", kind="hang")
    task = asyncio.create_task(backend.create(profile(), ME))
    await eventually(lambda: modal_cloud.do("sandboxes"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(modal_cloud.do("sandboxes")) == 1
    await backend.tidy()
    assert modal_cloud.do("sandboxes") == []


async def test_a_creation_under_way_is_no_stray(create: Create, backend: ModalBackend, modal_cloud: StandIn) -> None:
    """Its sandbox exists before its maker knows the id."""
    modal_cloud.fault("SandboxCreateV2", when="after", delay=2.0, status="UNAVAILABLE")
    making = asyncio.ensure_future(create())
    await eventually(lambda: modal_cloud.do("sandboxes"))
    await backend.tidy()
    assert not making.done()
    assert await text(await making, "echo on") == "on"


async def test_a_cancelled_creation_leaves_nothing(backend: ModalBackend, modal_cloud: StandIn) -> None:
    """Cancelled when the sandbox is there and its runner is about to get its configuration."""
    modal_cloud.fault("SandboxStdinWriteV2", kind="hang")
    task = asyncio.create_task(backend.create(profile(), ME))
    await eventually(lambda: modal_cloud.do("calls").get("SandboxStdinWriteV2", 0) > 0 and modal_cloud.do("sandboxes"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not modal_cloud.do("sandboxes"))


async def test_a_runner_that_cannot_start_says_why(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own last words; another try may work."""
    good, never = spec.config, {"ttl": "never"}
    monkeypatch.setattr(spec, "config", lambda profile: Config(**asdict(good(profile)) | never))
    with pytest.raises(SandboxStartFailed, match="did not start: TypeError"):
        await create()
