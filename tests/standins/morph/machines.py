"""A "virtual machine": a bubblewrap tree with a root directory, processes and files of its own."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

#: Host users of machines are this number plus 24 random bits; toolfleet's own sandboxes use the range below.
FIRST_UID = 0x61000000

#: PID 1 of a machine: collects orphans, and outlives ``kill -9 -1`` as an init does.
_INIT = "trap '' TERM INT HUP; while :; do sleep 1000 & wait; done"
_ETC = ("alternatives", "ld.so.cache", "ssl")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


def make_base(root: Path) -> None:
    """Fill ``root`` with what a machine's own files are at first; ``/usr`` is the host's."""
    for name in ("dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "usr", "var", "var/tmp", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o700)
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
    for name, text in _FILES.items():
        (root / name).write_text(text)


async def copy(source: Path, target: Path) -> None:
    """Copy a root directory with everything in it."""
    process = await asyncio.create_subprocess_exec("cp", "-a", "--reflink=auto", str(source), str(target))
    if await process.wait():
        raise OSError(f"cp from {source} to {target} failed")


class Machine:
    """One machine. ``root`` is its disk, which outlives the processes and belongs to whoever made this object."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self._name = name
        self._uid = FIRST_UID + secrets.randbits(24) if os.geteuid() == 0 else None
        self._bwrap: Process | None = None
        self._init = 0
        self._entered: set[Process] = set()
        """The ``nsenter`` of each command: outside, and the only one who can collect it."""

    async def boot(self) -> None:
        """Start PID 1."""
        if self._uid is not None:
            await asyncio.to_thread(_give, self.root, self._uid)
        info, theirs = os.pipe()
        try:
            self._bwrap = await asyncio.create_subprocess_exec(
                *self._command(theirs),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs,),
                start_new_session=True,
                env=_ENV,
                user=self._uid,
                group=self._uid,
                extra_groups=None if self._uid is None else [],
            )
        finally:
            os.close(theirs)
        with open(info, "rb") as told:
            self._init = int(json.loads(await asyncio.to_thread(told.read))["child-pid"])

    def _command(self, info: int) -> list[str]:
        etc = [argument for name in _ETC for argument in ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")]
        tops = [f"/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64")]
        real = [argument for top in tops if not os.path.islink(top) for argument in ("--ro-bind-try", top, top)]
        return [
            *("bwrap", "--unshare-all", "--as-pid-1", "--die-with-parent", "--uid", "0", "--gid", "0"),
            *("--hostname", self._name, "--bind", str(self.root), "/", "--ro-bind", "/usr", "/usr", *real, *etc),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--info-fd", str(info)),
            *("--cap-add", "ALL", "--", "/bin/sh", "-c", _INIT),
        ]

    async def spawn(self, command: Sequence[str], *, stdin: int) -> Process:
        """Start a command in the machine, as root, with pipes for its output; ``stdin`` as for `asyncio.subprocess`."""
        enter = ["nsenter", "-t", str(self._init), "-U", "-m", "-p", "-n", "-i", "-u", "-r"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *enter, "--", *command, stdin=stdin, stdout=pipe, stderr=pipe, env=_ENV, start_new_session=True
        )
        self._entered = {other for other in self._entered if other.returncode is None} | {process}
        return process

    async def pause(self) -> None:
        """Stop every process, those born meanwhile included."""
        # nsenter first: it would stop itself when it saw its command stopped, and nobody would know when.
        for find in (self._outside, self._processes):
            told: set[int] = set()
            # Who waits for the exec of a child that is stopped itself (D) will not run either, once it has been told.
            while running := [pid for pid in find() if _state(pid) not in ("TZXD" if pid in told else "TZX")]:
                _signal(running, signal.SIGSTOP)
                told.update(running)
                await asyncio.sleep(0.005)

    async def resume(self) -> None:
        """Let all of them go on."""
        _signal(self._processes(), signal.SIGCONT)
        _signal(self._outside(), signal.SIGCONT)

    async def halt(self) -> None:
        """End every process. Idempotent."""
        if self._bwrap is None:
            return
        # All others go with PID 1, and bwrap, which collects it, goes by itself.
        _signal([self._init], signal.SIGKILL)
        _signal(self._outside(), signal.SIGCONT)
        await self._bwrap.wait()
        while self._processes():
            await asyncio.sleep(0.005)
        self._bwrap = None

    async def destroy(self) -> None:
        """End it and remove its disk. Idempotent."""
        await self.halt()
        await asyncio.to_thread(shutil.rmtree, self.root, ignore_errors=True)

    def _outside(self) -> list[int]:
        return [process.pid for process in self._entered if process.returncode is None]

    def _processes(self) -> list[int]:
        """Every process of the machine, by its number on the host."""
        if self._bwrap is None:
            return []
        try:
            mine = os.readlink(f"/proc/{self._init}/ns/pid")
        except OSError:
            return []
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{entry}/ns/pid") == mine:
                        found.append(int(entry))
        return found


def _give(root: Path, uid: int) -> None:
    """Make ``uid`` the owner of everything below ``root``."""
    os.chown(root, uid, uid)
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            os.chown(os.path.join(place, name), uid, uid, follow_symlinks=False)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
