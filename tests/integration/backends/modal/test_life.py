"""Sandboxes of Modal and their ordinary life, against the stand-in; see ``tests/standins``."""

import asyncio
import json
import os
import shutil

import pytest
from integration.backends.modal.rig import Create, eventually, sh, text
from services import missing
from standins.modal.client import StandIn

from toolfleet.backends.base import Request
from toolfleet.backends.conformance.limits import CROWD
from toolfleet.backends.modal import ModalBackend
from toolfleet.config.errors import SandboxLost


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
    assert (await sh(sandbox, CROWD, timeout=60)).exit_code == 137
    assert await text(sandbox, "echo on") == "on"
