"""The least that a backend can be: a runner in new namespaces of the kernel, on a file system in memory.

It shows what somebody who writes a backend has to bring along, and holds the conformance suite to its word: whatever a
check takes for granted beyond the interfaces fails here. It needs root, util-linux and iproute2. It filters no system
calls and has no cgroups, so it is an example and no place for hostile code.

Nothing of a sandbox is on disk. Its label is an argument of the process that waits for its runner (its *monitor*), and
what the kernel lists is what there is, whoever has made it and however that ended.
"""

import asyncio
import contextlib
import functools
import json
import os
import secrets
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from toolfleet.backends import runtime, told
from toolfleet.backends.base import Capabilities, Owner, SandboxRef
from toolfleet.backends.cancellation import to_the_end
from toolfleet.backends.channel import Channel
from toolfleet.backends.local import place, processes
from toolfleet.backends.local.processes import Identity, wait
from toolfleet.backends.runner import config as boot
from toolfleet.backends.runner.seal import new_secret
from toolfleet.backends.runner.standalone import READY
from toolfleet.backends.sandbox import RunnerSandbox
from toolfleet.backends.transports import command, sealed
from toolfleet.config.errors import BackendUnavailable, SandboxLost, SandboxStartFailed, SpecRefused
from toolfleet.config.profile import Profile

#: Where the runner listens: an abstract socket of the sandbox's own network namespace.
ADDRESS = "@runner"
#: Host users of sandboxes are this number plus 24 bits of the sandbox's id: far from any real user.
FIRST_UID = 0x61000000
#: Seconds until a runner must be ready, and until a killed one must be gone.
PATIENCE = 20.0

_PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_UNSHARE = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
#: Builds the root of a sandbox and becomes its runner. $0 label, $1 user, $2 MiB of files, $3 bundle; then the runner.
_SCRIPT = """
set -e
umask 022
ip link set lo up
mount -t tmpfs -o "mode=755,size=$2m,nr_inodes=$(($2 * 256))" tmpfs "$PWD"
cd "$PWD"
mkdir dev etc proc runtime usr var
mkdir -m 1777 tmp var/tmp dev/shm
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
mount --bind -o ro /usr usr
mount --bind -o ro "$3" runtime
mount -t proc proc proc
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
echo "user:x:$1:$1::/tmp:/bin/sh" > etc/passwd
echo "user:x:$1:" > etc/group
user=$1
shift 3
# Not pivot_root: who lives in a chroot can make no user namespace.
exec chroot . /usr/bin/setpriv --reuid "$user" --regid "$user" --clear-groups \
    --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""
_MONITOR = [*_UNSHARE, "sh", "-c", _SCRIPT]


@dataclass(frozen=True, slots=True)
class _Found:
    """A sandbox, as the kernel knows it."""

    ref: SandboxRef
    owner: Owner
    monitor: Identity
    runner: Identity | None
    """PID 1 of the sandbox; None while there is none yet, or no more."""


class PlainBackend:
    """See `toolfleet.backends.base.Backend`."""

    name = "plain_backend:PlainBackend"
    deviations: ClassVar[Mapping[str, str]] = {}

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._folder = runtime_dir / "plain"

    async def probe(self) -> Capabilities:
        """See `toolfleet.backends.base.Backend.probe`."""
        await asyncio.to_thread(_try_out)
        return Capabilities(
            networks=frozenset({"none"}),
            limits={"memory": "monitor", "disk": "tmpfs", "pids": "rlimit"},
            attach="host",
            places=frozenset({self._place}),
            pty=True,
        )

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> RunnerSandbox:
        """See `toolfleet.backends.base.Backend.create`."""
        _check(profile, origin)
        secret = new_secret()
        ref = SandboxRef(self.name, secrets.token_hex(6), ADDRESS, self._place, secret.hex())
        label = json.dumps([ref.place, ref.id, owner.fleet, owner.worker_id])
        bundle = await asyncio.to_thread(runtime.ensure, self._runtime_dir)
        runner = bundle.argv("/runtime", "listen", ADDRESS, program="standalone")
        argv = [*_MONITOR, label, str(user_of(ref)), str(profile.disk_mib), str(bundle.path), *runner]
        env = {"HOME": "/tmp", "USER": "user", **profile.env}
        line = boot.line(replace(told.config(profile), env=env, monitor=True), secret)
        try:
            await to_the_end(asyncio.to_thread(_start, argv, line, self._folder))
            return await self._sandbox(ref)
        except BaseException as error:
            await to_the_end(self.destroy(ref))
            if isinstance(error, OSError | SandboxLost):
                raise SandboxStartFailed(f"cannot start a sandbox: {error}") from error
            raise

    async def attach(self, ref: SandboxRef) -> RunnerSandbox:
        """See `toolfleet.backends.base.Backend.attach`."""
        sandbox = await self._sandbox(ref)
        await sandbox.query("")
        return sandbox

    async def list(self, owner: Owner | None = None) -> list[SandboxRef]:
        """See `toolfleet.backends.base.Backend.list`."""
        processes.reap()
        return [found.ref for found in await self._find() if owner in (None, found.owner)]

    async def tidy(self, fleet: str = "") -> None:
        """See `toolfleet.backends.base.Backend.tidy`. The kernel leaves nothing of a sandbox but our own children."""
        processes.reap()

    async def destroy(self, ref: SandboxRef) -> None:
        """See `toolfleet.backends.base.Backend.destroy`."""
        for found in await self._find():
            if found.ref.id == ref.id:
                # Where there is no runner yet, none can come to be any more: its monitor goes, and takes it along.
                await wait(found.runner or found.monitor, PATIENCE, kill=True)
                if not await wait(found.monitor, PATIENCE, kill=False):
                    raise SandboxLost(f"sandbox {ref.id} does not end", sent=True)
        processes.reap()

    async def save(self, ref: SandboxRef, name: str) -> str:
        """See `toolfleet.backends.base.Sandbox.snapshot`."""
        raise SpecRefused("sandboxes of this backend are in memory and cannot be saved: use another backend")

    async def drop(self, snapshot: str) -> None:
        """See `toolfleet.backends.base.Backend.drop`. There are none."""

    async def shutdown(self) -> None:
        """See `toolfleet.backends.base.Backend.shutdown`."""
        processes.reap()

    @functools.cached_property
    def _place(self) -> str:
        return place.of_directory("plain", self._folder, processes_too=True)

    async def _find(self) -> tuple[_Found, ...]:
        """The sandboxes of this place, those that are about to begin or to end included."""
        return tuple(found for found in await asyncio.to_thread(_sandboxes) if found.ref.place == self._place)

    async def _sandbox(self, ref: SandboxRef) -> RunnerSandbox:
        runner = next((found.runner for found in await self._find() if found.ref.id == ref.id), None)
        if runner is None:
            raise SandboxLost(f"the sandbox {ref.id} is gone", sent=False)
        bundle = await asyncio.to_thread(runtime.ensure, self._runtime_dir)
        relay = bundle.argv("/runtime", ADDRESS, program="relay")
        # Not into the PID namespace: a relay there would have to be collected before the sandbox can end.
        enter = ["nsenter", "--target", str(runner.pid), "--mount", "--net", "--root", "--wd=/"]
        way = command(*enter, *relay, env=_PATH)
        return RunnerSandbox(ref, Channel(sealed(way, bytes.fromhex(ref.secret)), f"sandbox {ref.id}"), self)


def user_of(ref: SandboxRef) -> int:
    """The host's user that a sandbox runs as."""
    return FIRST_UID + int(ref.id[:6], 16)


def _try_out() -> None:
    """Make the namespaces once, with nothing in them.

    Raises:
        BackendUnavailable: that is not possible here.
    """
    try:
        for argv in (["nsenter", "--version"], ["setpriv", "--version"], [*_UNSHARE, "ip", "link", "set", "lo", "up"]):
            subprocess.run(argv, check=True, capture_output=True, text=True, env=_PATH)
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", None) or error
        raise BackendUnavailable(f"the plain backend needs root, util-linux and iproute2: {words}") from error


def _check(profile: Profile, origin: str | None) -> None:
    for refused, words in (
        (profile.network != "none", "any network: say network = 'none'"),
        (profile.cpu is not None, "a limit on cores: leave cpu unset"),
        (profile.storage != "memory", "storage on disk: say storage = 'memory'"),
        (profile.image or profile.rootfs, "any base but the host's /usr: leave image and rootfs unset"),
        (profile.foreign_options("plain"), "options of other backends: remove them"),
        (origin, "snapshots: start from the profile"),
    ):
        if refused:
            raise SpecRefused(f"the plain backend does not have {words}")


def _start(argv: Sequence[str], boot_line: bytes, folder: Path) -> None:
    """Start a sandbox, and return once its runner is ready. Blocking; what has been started stays on failure.

    Raises:
        SandboxStartFailed: with the words of whoever gave up.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        argv, 0, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, cwd=folder, env=_PATH, start_new_session=True
    )
    processes.adopt(process.pid)
    process.returncode = 0  # it outlives this handle; from here on nobody waits through it
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        with contextlib.suppress(BrokenPipeError):  # and its words say why
            process.stdin.write(boot_line)
        said, until = b"", time.monotonic() + PATIENCE
        while said != READY:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            data = process.stdout.read(4096) if ready else None
            if not data:
                raise SandboxStartFailed(f"no runner is ready: {said.decode(errors='replace').strip()}")
            said += data


def _sandboxes() -> list[_Found]:
    """All sandboxes of this kind on this machine."""
    sandboxes = []
    here = os.stat("/proc/self/ns/pid").st_ino
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
            # Whatever a command calls itself, it has another namespace.
            if words[: len(_MONITOR)] != _MONITOR or (folder / "ns/pid").stat().st_ino != here:
                continue
            monitor = Identity.of(int(folder.name))
            children = (folder / "task" / folder.name / "children").read_text().split()
            if monitor is not None:
                place_name, name, *owner = json.loads(words[len(_MONITOR)])
                ref = SandboxRef(PlainBackend.name, name, ADDRESS, place_name)
                runner = Identity.of(int(children[0])) if children else None
                sandboxes.append(_Found(ref, Owner(*owner), monitor, runner))
    return sandboxes
