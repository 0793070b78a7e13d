"""Sandboxes from creation to the last trace of them."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from killed_creator import CALL_ID, GO, OUTPUT, orphan

from toolfleet.backends import channel
from toolfleet.backends.base import Owner
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.local import layout
from toolfleet.backends.local.processes import Identity
from toolfleet.backends.local.records import Directory
from toolfleet.config.errors import BackendUnavailable, SandboxLost, SandboxStartFailed, SnapshotLost, SpecRefused
from toolfleet.config.profile import Profile

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box

ME = Owner("fleet", "me")


def runner_of(box: "Box") -> Identity:
    """PID 1 of a sandbox."""
    record = Directory(Path(box.sandbox.ref.address).parent).read()
    assert record is not None
    assert record.runner is not None
    return record.runner


async def test_a_closed_sandbox_is_gone_with_everything_in_it(box: "Box", backend: BubblewrapBackend) -> None:
    """Processes, directory, cgroup."""
    await box.sh("setsid sleep 9001 >/dev/null 2>&1 & disown")
    runner = runner_of(box)
    record = Directory(Path(box.sandbox.ref.address).parent).read()
    assert record is not None
    await box.sandbox.close()
    assert not runner.alive
    assert not Path(box.sandbox.ref.address).parent.exists()
    assert record.cgroup is None or not Path(record.cgroup).exists()
    assert await backend.list() == []


async def test_a_sandbox_survives_the_worker_that_made_it(backend: BubblewrapBackend, box: "Box") -> None:
    """Killed with SIGKILL in the middle of a call; another process takes over and gets the outcome."""
    ref = await orphan("bubblewrap", backend._runtime_dir, Profile(), Owner("f", "dead"))
    assert await backend.list(Owner("f", "dead")) == [ref]
    heir = type(box)(await backend.attach(ref))
    assert await heir.sandbox.query(CALL_ID) == "running"
    await heir.text(GO)
    outcome = await heir.sandbox.run(box.request("exec", 30.0, CALL_ID, command="must not run"))
    assert (outcome.stdout, outcome.exit_code) == (OUTPUT, 0)
    await heir.sandbox.close()


async def test_a_sandbox_that_nobody_pings_ends_itself(backend: BubblewrapBackend, box: "Box") -> None:
    """With everything in it; what it leaves on the host goes with the next listing."""
    await box.sandbox.ping(30)
    await box.sh("sleep 9002 >/dev/null 2>&1 &")
    runner = runner_of(box)
    await box.sandbox.ping(0.2)
    await box.eventually(lambda: asyncio.sleep(0, not runner.alive))
    with pytest.raises(SandboxLost):
        await box.sandbox.ping(1)
    assert Path(box.sandbox.ref.address).exists()
    assert await backend.list() == []
    assert not Path(box.sandbox.ref.address).parent.exists()


async def test_a_killed_runner_is_a_lost_sandbox(box: "Box") -> None:
    """The call that ran is lost after it was sent, the next one before."""
    running = asyncio.create_task(box.sh("sleep 9003", call_id="c"))
    await box.eventually(lambda: box.runs("c"))
    os.kill(runner_of(box).pid, signal.SIGKILL)
    with pytest.raises(SandboxLost) as lost:
        await running
    assert lost.value.sent
    with pytest.raises(SandboxLost) as lost:
        await box.sh("true")
    assert not lost.value.sent


async def test_a_runner_that_falls_silent_is_a_lost_sandbox(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it for ever: neither a call that was sent, nor one that finds it so."""
    await box.sh("true")
    monkeypatch.setattr(channel, "GUARD", 0.3)
    monkeypatch.setattr(channel, "ANSWER", 0.3)
    os.kill(runner_of(box).pid, signal.SIGSTOP)
    with pytest.raises(SandboxLost) as lost:
        await box.sh("true", timeout=0.1)
    assert lost.value.sent
    with pytest.raises(SandboxLost) as lost:
        await box.sh("true", timeout=0.1)
    assert not lost.value.sent


@pytest.mark.parametrize("arguments", [["--bind", "/no/such/source", "/x"], ["--no-such-option"]])
async def test_a_failed_start_tells_bubblewraps_own_words(
    backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """And leaves nothing."""
    monkeypatch.setattr(layout, "_host_base", lambda root: arguments)
    with pytest.raises(
        (SandboxStartFailed, BackendUnavailable), match=arguments[-2] if len(arguments) > 1 else "option"
    ):
        await backend.create(Profile(), ME)
    assert list(backend._root.iterdir()) == []


async def test_a_runner_that_cannot_enter_tells_why(
    backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own traceback's last words, and nothing left."""
    monkeypatch.setattr(layout, "_CAPABILITIES", ("SETPCAP",))
    with pytest.raises(SandboxStartFailed, match="mount"):
        await backend.create(Profile(), ME)
    assert list(backend._root.iterdir()) == []


async def test_a_recycled_process_number_is_nobody(backend: BubblewrapBackend, box: "Box") -> None:
    """A record of a process with the same number but another start time belongs to a dead sandbox: it kills nobody."""
    directory = Directory(Path(box.sandbox.ref.address).parent)
    record = directory.read()
    assert record is not None
    innocent = await asyncio.create_subprocess_exec("sleep", "60")
    stale = Directory(directory.path.parent / "0123456789ab")
    stale.path.mkdir()
    pretender = Identity(innocent.pid, 1)
    stale.write(replace(record, runner=pretender, monitor=pretender, cgroup=None))
    assert await backend.list() == [box.sandbox.ref]
    assert not stale.path.exists()
    assert innocent.returncode is None
    innocent.terminate()
    await innocent.wait()


async def test_a_record_of_an_earlier_boot_is_stale(backend: BubblewrapBackend, box: "Box") -> None:
    """Whatever runs under its numbers now."""
    directory = Directory(Path(box.sandbox.ref.address).parent)
    record = directory.read()
    assert record is not None
    stale = Directory(directory.path.parent / "0123456789ab")
    stale.path.mkdir()
    stale.write(replace(record, boot="another", cgroup=None))
    assert await backend.list() == [box.sandbox.ref]
    assert not stale.path.exists()
    assert await box.text("echo on") == "on"


async def test_a_runtime_directory_with_a_long_path_works(runtime_dir: Path, box: "Box") -> None:
    """A unix socket's address holds 108 bytes, a path many more."""
    backend = BubblewrapBackend(runtime_dir / ("d" * 120))
    sandbox = type(box)(await backend.create(Profile(), ME))
    assert await sandbox.text("echo hi") == "hi"
    assert await backend.list() == [sandbox.sandbox.ref]
    await sandbox.sandbox.close()


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"image": "debian"}, "takes no image"),
        ({"network": "bridge"}, "no network 'bridge': take host or none"),
        ({"network": "internal"}, "no network 'internal'"),
        ({"cpu": 1.5}, "cannot limit the use of cores"),
        ({"docker": {"user": "root"}}, "options of docker"),
    ],
    ids=str,
)
async def test_what_cannot_be_enforced_is_refused(
    backend: BubblewrapBackend, profile: dict[str, object], words: str
) -> None:
    """With the reason, before anything is started."""
    with pytest.raises(SpecRefused, match=words):
        await backend.create(Profile.model_validate(profile), ME)
    assert await backend.list() == []


async def test_what_it_cannot_save_it_says(
    backend: BubblewrapBackend, box: "Box", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving is refused with the reason where it cannot work; what never was there cannot be started from."""
    with pytest.raises(SnapshotLost, match="not on this machine"):
        await backend.create(Profile(), ME, origin="x")
    await backend.drop("x")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SpecRefused, match="needs a worker that is root"):
        await box.sandbox.snapshot("saved-1")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SpecRefused, match="install the package tar" if os.geteuid() == 0 else "root"):
        await box.sandbox.snapshot("saved-1")


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
async def test_a_rootfs_that_cannot_work_is_refused(backend: BubblewrapBackend, tmp_path: Path, what: str) -> None:
    """Before anything is started."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecRefused, match=what):
        await backend.create(Profile(rootfs=str(tmp_path / what)), ME)


async def test_without_bubblewrap_the_probe_says_how_to_install_it(
    backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its package's name."""
    monkeypatch.setenv("PATH", "/nowhere")
    for attempt in (backend.probe, lambda: backend.create(Profile(), ME)):
        with pytest.raises(BackendUnavailable, match="Install the package bubblewrap"):
            await attempt()


async def test_the_probe_tells_what_holds_the_limits(backend: BubblewrapBackend) -> None:
    """And what a user should know."""
    capabilities = await backend.probe()
    assert capabilities.networks == {"none", "host"}
    assert capabilities.limits["memory"] in ("cgroup", "monitor")
    assert (capabilities.attach, capabilities.snapshot, capabilities.pty) == ("host", os.geteuid() == 0, True)
    assert capabilities.notes
    monitored = await BubblewrapBackend(backend._runtime_dir, use_cgroups=False).probe()
    assert monitored.limits["memory"] == "monitor"
    assert any("ten times a second" in note for note in monitored.notes)
