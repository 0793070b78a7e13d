"""Sandboxes of Modal, from creation to the last trace of them, against the stand-in; see ``tests/standins``."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from services import missing
from standins.modal.client import StandIn

from toolfleet.backends import channel, registry
from toolfleet.backends.base import Outcome, Owner, Request, SandboxRef
from toolfleet.backends.channel import Fenced
from toolfleet.backends.modal import ModalBackend, ModalSandbox
from toolfleet.backends.modal_cloud import spec
from toolfleet.backends.runner.config import Config
from toolfleet.config.errors import BackendUnavailable, SandboxLost, SandboxStartFailed, SnapshotLost, SpecRefused
from toolfleet.config.profile import Profile

ME = Owner("fleet", "me")

Create = Callable[..., Awaitable[ModalSandbox]]

_call_ids = (f"call-{number}" for number in itertools.count())


def profile(*, modal: dict[str, Any] | None = None, **fields: Any) -> Profile:
    """A profile that Modal accepts."""
    options = {"unlimited_disk": True, **(modal or {})}
    return Profile.model_validate(
        {"backend": "modal", "image": "debian:bookworm-slim", "storage": "disk", "modal": options, **fields}
    )


@pytest.fixture
async def backend(modal_cloud: StandIn, tmp_path: Path) -> AsyncIterator[ModalBackend]:
    """The backend, with a client of its own."""
    backend = ModalBackend(tmp_path)
    yield backend
    await backend.shutdown()


@pytest.fixture
async def create(modal_cloud: StandIn, backend: ModalBackend) -> AsyncIterator[Create]:
    """Makes sandboxes, which end with the test."""
    made: list[ModalSandbox] = []

    async def create(owner: Owner = ME, origin: str | None = None, **fields: Any) -> ModalSandbox:
        made.append(await backend.create(profile(**fields), owner, origin))
        return made[-1]

    yield create
    modal_cloud.do("clear")
    await asyncio.gather(*(sandbox.close() for sandbox in made))
    await eventually(lambda: not modal_cloud.do("sandboxes"))


async def eventually(fact: Callable[[], Any], within: float = 15.0) -> None:
    """Wait until a fact holds."""
    until = time.monotonic() + within
    while not fact():
        assert time.monotonic() < until, "it never came true"
        await asyncio.sleep(0.01)


async def sh(sandbox: ModalSandbox, command: str, timeout: float = 20.0, call_id: str | None = None) -> Outcome:
    """Run a shell command."""
    return await sandbox.run(Request(call_id or next(_call_ids), "exec", {"command": command}, timeout))


async def text(sandbox: ModalSandbox, command: str) -> str:
    """What a command prints; it must succeed."""
    outcome = await sh(sandbox, command)
    assert outcome.exit_code == 0, outcome
    return outcome.stdout.decode().strip()


# -- the ordinary life


async def test_a_sandbox_lives_and_is_gone(create: Create, backend: ModalBackend, modal_cloud: StandIn) -> None:
    """Commands, files, and an end that may be repeated."""
    sandbox = await create(env={"A": "b"}, workdir="/work/new")
    outcome = await sh(sandbox, 'printf "\\377$A $PWD"; echo err >&2; exit 3')
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (b"\xffb /work/new", b"err\n", 3)
    body = os.urandom(3_000_000)
    await sandbox.run(Request("w", "write", {"path": "/root/file"}, 20.0, body))
    assert (
        await sandbox.run(Request("r", "read", {"path": "/root/file", "max_bytes": len(body)}, 20.0))
    ).stdout == body
    late = await sh(sandbox, "echo some; sleep 600", timeout=0.5)
    assert (late.timed_out, late.stdout, late.exit_code) == (True, b"some\n", 124)
    await sandbox.close()
    await eventually(lambda: not modal_cloud.do("sandboxes"))
    await sandbox.close()
    await backend.destroy(sandbox.ref)
    with pytest.raises(SandboxLost):
        await sh(sandbox, "true")
    with pytest.raises(SandboxLost, match="terminated"):
        await backend.attach(sandbox.ref)


async def test_modal_is_told_what_the_profile_says(create: Create, modal_cloud: StandIn) -> None:
    """Limits, network, time-outs, and whose it is."""
    await create(
        cpu=1.5,
        memory_mib=512,
        network="bridge",
        modal={"outbound_cidrs": ["10.0.0.0/8"], "region": ["us-east"], "max_lifetime": 900, "idle_timeout": 300},
    )
    (made,) = modal_cloud.do("sandboxes")
    definition = made["definition"]
    resources = definition["resources"]
    assert (resources["milli_cpu"], resources["milli_cpu_max"]) == (1500, 1500)
    assert resources["memory_mb"] == resources["memory_mb_max"] == 512 + 256
    assert definition["network_access"] == {"network_access_type": "ALLOWLIST", "allowed_cidrs": ["10.0.0.0/8"]}
    assert (definition["timeout_secs"], definition["idle_timeout_secs"]) == (900, 300)
    assert definition["scheduler_placement"]["regions"] == ["us-east"]
    tags = made["tags"]
    assert (tags["toolfleet_fleet"], tags["toolfleet_worker"]) == ("fleet", "me")
    assert all(len(tags[f"toolfleet_{name}"]) == 16 for name in ("spec", "maker", "attempt"))


async def test_the_network_is_closed_unless_the_profile_opens_it(create: Create) -> None:
    assert await text(await create(), "grep -vc lo: /proc/net/dev") == "2"


async def test_named_secrets_and_volumes_reach_commands(create: Create, modal_cloud: StandIn) -> None:
    """Their values have never been here."""
    modal_cloud.do("secret", name="api", env={"API_KEY": "k1"})
    import modal

    await modal.Volume.objects.create.aio("models", allow_existing=True)
    sandbox = await create(modal={"secrets": ["api"], "volumes": {"/models": "models"}})
    assert await text(sandbox, "echo $API_KEY | tee /models/file") == "k1"
    other = await create(modal={"volumes": {"/models": "models"}})
    assert await text(other, "cat /models/file; echo $API_KEY") == "k1"


async def test_an_image_needs_no_python(create: Create) -> None:
    """The runner brings its own."""
    import shutil

    if shutil.which("busybox") is None:
        missing("busybox")
    sandbox = await create(image="busybox:1")
    assert await text(sandbox, "busybox ls /bin") == "busybox\nsh"


async def test_the_channels_secret_is_nowhere_to_be_seen(create: Create, modal_cloud: StandIn) -> None:
    """Not at Modal, not in the sandbox, and not in what is logged."""
    sandbox = await create()
    assert len(sandbox.ref.secret) == 64
    assert sandbox.ref.secret not in repr(sandbox.ref)
    assert sandbox.ref.secret not in json.dumps(modal_cloud.do("sandboxes"))
    seen = await text(sandbox, "cat /proc/*/cmdline /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; env")
    assert sandbox.ref.secret not in seen


async def test_many_sandboxes_start_side_by_side(create: Create) -> None:
    """And every one is its own."""
    sandboxes = await asyncio.gather(*(create() for _ in range(8)))
    assert len({sandbox.ref.id for sandbox in sandboxes}) == 8
    await asyncio.gather(*(sh(sandbox, f"echo {number} > /n") for number, sandbox in enumerate(sandboxes)))
    assert [await text(sandbox, "cat /n") for sandbox in sandboxes] == [str(number) for number in range(8)]


async def test_a_crowd_of_processes_is_ended(create: Create) -> None:
    """Where the kernel counts no processes the runner does."""
    sandbox = await create(pids=32)
    crowd = await sh(sandbox, "for i in $(seq 100); do sleep 600 & done; wait", timeout=60)
    assert (crowd.exit_code, crowd.error) == (137, "Killed: the sandbox may have 32 processes at once")
    assert await text(sandbox, "pgrep -fxc 'sleep 600' || true") == "0"


async def test_a_command_over_the_memory_limit_is_killed_alone(create: Create) -> None:
    """Before Modal ends the whole sandbox."""
    sandbox = await create(memory_mib=64)
    piece = 'x=$(head -c 9000000 /dev/zero | tr "\\0" x); sleep 30'
    crowd = f"for i in 1 2 3 4 5 6 7 8 9 10; do bash -c '{piece}' & done; wait -n; exit $?"
    assert (await sh(sandbox, crowd, timeout=60)).exit_code == 137
    assert await text(sandbox, "echo on") == "on"


# -- refusals


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"image": None}, "needs an image"),
        ({"rootfs": "/srv/root"}, "no rootfs"),
        ({"network": "host"}, "no network 'host'"),
        ({"storage": "memory"}, "unlimited_disk = true"),
        ({"modal": {"unlimited_disk": False}}, "unlimited_disk = true"),
        ({"modal": {"outbound_domains": ["pypi.org"]}}, "needs network = 'bridge'"),
        ({"image": "im-123", "modal": {"registry_secret": "s"}}, "registry_secret"),
        ({"image": "im-unknown"}, "Create it in Modal, or correct the profile"),
        ({"modal": {"secrets": ["unknown"]}}, "Create it in Modal, or correct the profile"),
        ({"modal": {"volumes": {"/data": "unknown"}}}, "Create it in Modal, or correct the profile"),
        ({"env": {"A": "x" * 200_000}}, "environment of the profile"),
    ],
)
async def test_what_modal_cannot_do_is_refused(create: Create, fields: dict[str, Any], why: str) -> None:
    """With the remedy, and before anything is started."""
    with pytest.raises(SpecRefused, match=re.escape(why)):
        await create(**fields)


async def test_without_the_sdk_or_a_token_the_probe_says_what_to_do(
    modal_cloud: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MODAL_TOKEN_ID")
    with pytest.raises(BackendUnavailable, match="modal token new"):
        await ModalBackend(tmp_path).probe()
    monkeypatch.setitem(sys.modules, "modal", None)
    for attempt in (ModalBackend(tmp_path).probe(), ModalBackend(tmp_path).create(profile(), ME)):
        with pytest.raises(BackendUnavailable, match=r"pip install 'toolfleet\[modal\]'"):
            await attempt


async def test_a_worker_whose_interpreter_modal_cannot_run_is_told_so(
    backend: ModalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner brings the worker's own."""
    monkeypatch.setattr("toolfleet.backends.modal._MACHINE", "another")
    with pytest.raises(BackendUnavailable, match="run on another and need a worker of that kind"):
        await backend.probe()


async def test_a_token_that_is_not_accepted_is_no_reason_to_try_again(
    backend: ModalBackend, modal_cloud: StandIn
) -> None:
    modal_cloud.fault("AppGetOrCreate", status="UNAUTHENTICATED", count=2)
    with pytest.raises(BackendUnavailable, match="modal token info"):
        await backend.probe()
    with pytest.raises(BackendUnavailable, match="modal token info"):
        await backend.create(profile(), ME)


def test_the_sdk_is_imported_only_when_it_is_used() -> None:
    """It takes a second, and most workers do without."""
    code = "import sys, toolfleet.backends.modal as m; sys.exit('modal' in sys.modules or 'grpclib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_the_registry_knows_the_backend_and_its_abilities(modal_cloud: StandIn, tmp_path: Path) -> None:
    backend = registry.load("modal", tmp_path)
    capabilities = await backend.probe()
    assert (capabilities.attach, capabilities.snapshot) == ("anywhere", True)
    assert capabilities.networks == {"none", "bridge"}
    assert "disk" not in capabilities.limits
    await backend.shutdown()


# -- creations that go wrong


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


# -- sandboxes that are lost


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
    await _until_running(sandbox, "long")
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
    await _until_running(sandbox, "long")
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
    await _until_running(sandbox, "long")
    for rpc in ("TaskExecStdinWrite", "TaskExecStart", "SandboxWaitV2"):
        modal_cloud.fault(rpc, kind="hang", count=1000)
    async with asyncio.timeout(60):
        with pytest.raises(SandboxLost):
            await sandbox.ping(30)
        with pytest.raises(SandboxLost):
            await running


async def _until_running(sandbox: ModalSandbox, call_id: str) -> None:
    while await sandbox.query(call_id) != "running":
        await asyncio.sleep(0.01)


async def test_a_cut_connection_disturbs_nobody(create: Create, modal_cloud: StandIn) -> None:
    """The SDK goes on where it was, in both directions."""
    sandbox = await create()
    running = asyncio.create_task(sh(sandbox, "until [ -e /go ]; do sleep 0.01; done; seq 20000", call_id="cut"))
    await _until_running(sandbox, "cut")
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
    await _until_running(sandbox, "once")
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


# -- owners, heirs and forks


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
    ref = await _made_by_a_process_that_dies(
        tmp_path,
        """
    call = Request("c", "exec", {"command": "until [ -e /go ]; do sleep 0.01; done; echo done"}, 60)
    task = asyncio.create_task(sandbox.run(call))
    while await sandbox.query("c") != "running":
        await asyncio.sleep(0.01)
    await sandbox.claim(1)
""",
    )
    assert [found.id for found in await backend.list(Owner("f", "dead"))] == [ref.id]
    heir = await backend.attach(ref)
    await heir.claim(2)
    assert await heir.query("c") == "running"
    await text(heir, "touch /go")
    outcome = await sh(heir, "must not run", call_id="c")
    assert (outcome.stdout, outcome.exit_code) == (b"done\n", 0)
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
    await _made_by_a_process_that_dies(tmp_path, "")
    (ref,) = await backend.list(Owner("f", "dead"))
    await backend.destroy(ref)
    await eventually(lambda: not modal_cloud.do("sandboxes"))
    await backend.destroy(ref)
    await backend.destroy(replace(ref, id="sb-v2-unknown"))


async def _made_by_a_process_that_dies(tmp_path: Path, then: str) -> SandboxRef:
    script = f"""
import asyncio, json, os, signal
from dataclasses import asdict
from pathlib import Path
from toolfleet.backends.base import Owner, Request
from toolfleet.backends.modal import ModalBackend
from toolfleet.config.profile import Profile

async def main():
    profile = Profile.model_validate_json({profile().model_dump_json()!r})
    sandbox = await ModalBackend(Path({str(tmp_path)!r})).create(profile, Owner("f", "dead"))
{then}
    print(json.dumps(asdict(sandbox.ref)), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL
    return SandboxRef(**json.loads(done.stdout))


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
