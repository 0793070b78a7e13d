"""Sandboxes of Modal that serve one trajectory after another: proven to be as they were, or used no more."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from integration.backends.modal.rig import ME
from standins.modal.client import StandIn

from toolfleet.backends.base import Operation, Outcome, Request
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.modal import ModalBackend, ModalSandbox
from toolfleet.config.errors import BackendError, NotPristine, SandboxLost, SpecRefused
from toolfleet.config.profile import Profile

Make = Callable[..., Awaitable[Box]]


@pytest.fixture
async def backend(modal_cloud: StandIn) -> AsyncIterator[ModalBackend]:
    """A backend on the stand-in."""
    runtime_dir = Path(tempfile.mkdtemp(prefix="toolfleet-"))
    backend = ModalBackend(runtime_dir)
    yield backend
    for ref in await backend.list(ME):
        await backend.destroy(ref)
    await backend.shutdown()
    shutil.rmtree(runtime_dir)


@pytest.fixture
def make(backend: ModalBackend) -> Make:
    """Makes sandboxes that may be used again."""

    async def make(**options: Any) -> Box:
        modal = {"unlimited_disk": True, "pooled": True, **options}
        profile = {"backend": "modal", "image": "debian:bookworm-slim", "storage": "disk", "modal": modal}
        return Box(await backend.create(Profile.model_validate(profile), ME))

    return make


async def reset(box: Box) -> None:
    await box.sandbox.reset()


#: Everything of the files that can be written to.
LOOK = """
PATH=/usr/bin; find / -path /usr -prune -o -path /proc -prune -o -path /dev -prune -o \\
  -printf '%p %y %m %U %G %T@ %l\\n' | sort; ls -A /dev/shm | wc -l
"""
#: What a trajectory may do that is undone.
UNDONE = {
    "files, hidden ones and links to directories": "cd; touch a .b; ln -s /etc d; mkdir -p .x/.y; ln -s / .x/.y/z",
    "files without rights": "mkdir -m 0 /root/shut /tmp/shut; touch /var/tmp/f; chmod 0 /var/tmp/f",
    "names of any kind": r"cd /tmp; touch $'a\nb' '-rf' $'\377' '*'; mkdir ' '; touch ' / '",
    "modes and owners": "chmod 0 /root /etc/passwd; chmod 4777 /tmp; chown 12 /etc/group",
    "times": "touch -d @1 /root /etc /etc/passwd",
    "links and directories that are gone": "rm /bin /sbin; /usr/bin/rmdir /srv /home",
    "a directory in the place of a link": "/usr/bin/rm /sbin; /usr/bin/mkdir /sbin; /usr/bin/touch /sbin/ls",
    "processes that hide": "(setsid env -i sleep 9001 &); (setsid sh -c 'trap : TERM; while sleep 1; do :; done' &)",
    "memory that is shared": "cat /dev/zero | head -c 1M > /dev/shm/left; ipcmk -M 4096 > /dev/null && ipcrm --all",
    "libraries to be loaded first": "echo /root/evil.so > /etc/ld.so.preload",
}
#: What cannot be undone, and what the refusal names.
SEEN = {
    "contents that are changed": ("echo evil:x:0:0::/:/bin/sh >> /etc/passwd", "/etc/passwd"),
    "contents of the same size and time": (
        "cp -p /etc/group /tmp/g; tr x y < /tmp/g > /etc/group; touch -r /tmp/g /etc/group; rm /tmp/g",
        "/etc/group",
    ),
    "files that are gone": ("rm /etc/passwd", "'/etc/passwd' is gone"),
    "memory that outlives its processes": ("ipcmk -M 4096", "/proc/sysvipc/shm"),
    "the runner's own limits": (
        "for p in /proc/[0-9]*; do [ $(cat $p/comm) = toolfleet ] && prlimit --pid ${p#/proc/} --nofile=50:50; done",
        "process",
    ),
    "the runner's priority": (
        "for p in /proc/[0-9]*; do [ $(cat $p/comm) = toolfleet ] && renice -n 19 ${p#/proc/}; done",
        "process",
    ),
}


@pytest.mark.parametrize("what", UNDONE)
async def test_what_a_trajectory_has_left_is_undone(make: Make, what: str) -> None:
    box = await make()
    before = await box.text(LOOK)
    await box.sh(UNDONE[what])
    await reset(box)
    assert await box.text(LOOK) == before
    assert await box.text("pgrep -c sleep || true") == "0"


@pytest.mark.parametrize("what", SEEN)
async def test_what_cannot_be_undone_is_seen_and_the_sandbox_is_used_no_more(make: Make, what: str) -> None:
    command, words = SEEN[what]
    box = await make()
    await box.sh(command)
    with pytest.raises(NotPristine, match=words):
        await reset(box)
    with pytest.raises(SandboxLost):
        await box.text("true")


async def test_calls_epochs_and_earlier_holders_are_forgotten(make: Make, backend: ModalBackend) -> None:
    """Who held it before can neither use it nor ask what was done in it."""
    box = await make()
    await box.sandbox.claim(7)
    await box.sh("echo secret", call_id="theirs")
    earlier = await backend.attach(box.sandbox.ref)
    await earlier.claim(8)
    later = await backend.attach(box.sandbox.ref)
    await later.claim(9)
    await box.sandbox.claim(9)
    await reset(box)
    await box.sandbox.claim(1)
    assert await box.sandbox.query("theirs") == "unknown"
    assert await box.text("echo anew") == "anew"
    for holder in (earlier, later):
        with pytest.raises(SandboxLost):
            await holder.run(Request("again", "exec", {"command": "true"}, 10.0))
        await holder.detach()


async def test_background_processes_shells_and_content_on_its_way_are_forgotten(make: Make) -> None:
    """Their logs and their state are as much a trajectory's as its files."""
    box = await make()

    async def ask(call_id: str, op: Operation, body: bytes = b"", **args: object) -> Outcome:
        return await box.sandbox.run(Request(call_id, op, args, 10.0, body))

    spawned = await ask("theirs", "spawn", command="echo secret; sleep 9000")
    await ask("shell", "shell", command="SECRET=1")
    await ask("part", "put", b"secret", stage="s", offset=0)
    await reset(box)
    listed = await ask("list", "process", action="list")
    assert listed.detail["processes"] == []
    gone = await ask("log", "process", action="log", process=spawned.detail["process"])
    assert gone.detail == {"status": "not_found"}
    assert (await ask("shell", "shell", command="echo ${SECRET-none}")).stdout == b"none\n"
    assert "not known here" in str((await ask("commit", "commit", stage="s", path="/tmp/f")).error)


async def test_it_is_used_as_often_as_it_may(make: Make) -> None:
    box = await make(max_uses=3)
    for _ in range(2):
        await box.text("touch /root/f")
        await reset(box)
        assert await box.text("ls -A /root") == ""
    with pytest.raises(SpecRefused, match="max_uses"):
        await reset(box)


async def test_commands_have_no_power_to_deceive(make: Make) -> None:
    """No mounts, devices, namespaces that matter, times or message queues; and no way to get the power."""
    box = await make()
    assert int((await box.text("grep CapBnd /proc/self/status")).split()[1], 16) & ~0b11111011 == 0
    assert (await box.text("grep NoNewPrivs /proc/self/status")).split()[1] == "1"
    for command in (
        "mount -t tmpfs none /opt/toolfleet",
        "mount --bind /tmp /opt/toolfleet",
        "umount /opt/toolfleet",
        "touch /opt/toolfleet/lib/python3.11/site.py",
        "mknod /tmp/d c 1 3",
        "date -s @1",
        "chroot / true",
        "hostname evil",
    ):
        assert (await box.sh(command)).exit_code != 0, command
    assert await box.text("ulimit -q") == "0"
    await reset(box)


async def test_a_sandbox_whose_runner_was_stopped_is_not_used_again(make: Make) -> None:
    """The channel finds out; whoever is to destroy it can."""
    box = await make()
    with contextlib.suppress(SandboxLost):
        await box.sh(
            "for p in /proc/[0-9]*; do [ $(cat $p/comm) = toolfleet ] && kill -9 ${p#/proc/}; done; sleep 60", 5
        )
    with pytest.raises(BackendError):
        await reset(box)


async def test_only_who_made_it_and_asked_for_it_can_reset(make: Make, backend: ModalBackend) -> None:
    box = await make()
    other = await backend.attach(box.sandbox.ref)
    with pytest.raises(SpecRefused, match="by the worker that made it"):
        await other.reset()
    await other.detach()
    plain = await make(pooled=False)
    with pytest.raises(SpecRefused, match="pooled"):
        await reset(plain)
    for options in ({"gpu": "T4"}, {"volumes": {"/data": "shared"}}):
        with pytest.raises(SpecRefused, match="volume or a GPU"):
            await make(**options)


async def test_a_library_to_be_loaded_first_is_not_loaded_into_what_looks(make: Make) -> None:
    """One that does not exist makes every other program complain, and so the shell that starts it."""
    box = await make()
    await box.text("echo /root/evil.so > /etc/ld.so.preload")
    assert (await box.sh("/usr/bin/true")).stderr.count(b"evil.so") == 2
    mounted = "/opt/toolfleet"
    looked = await box.sh(f"{mounted}/lib/loader --library-path {mounted}/lib {mounted}/bin/python3 -V")
    assert (looked.exit_code, looked.stderr.count(b"evil.so")) == (0, 1), looked


async def test_no_process_and_no_relay_of_a_look_stays(make: Make) -> None:
    box = await make()
    assert isinstance(box.sandbox, ModalSandbox)
    for _ in range(2):
        await reset(box)
        await asyncio.sleep(0)
        # bubblewrap's own first process, the runner, the relay of the channel, and what looks
        assert len((await box.text("ls -d /proc/[0-9]*")).split()) <= 5
