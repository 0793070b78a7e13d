"""One sandbox: a bubblewrap tree with its own root directory, processes and clocks."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpclib import GRPCError, Status
from modal_proto import api_pb2
from standins.modal import process
from standins.modal.process import Process

#: What a sandbox runs that was given no command.
_IDLE = ("sleep", "172800")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What root of an ordinary container may do.
_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


@dataclass(frozen=True, slots=True)
class Order:
    """What a sandbox is made of."""

    definition: api_pb2.Sandbox
    tags: Mapping[str, str]
    app_id: str
    env: Mapping[str, str]
    template: Path | None
    """A tree to copy as its root; None takes a bare one, with the host's ``/usr`` in it."""
    binds: Sequence[tuple[str, Path, str]] = field(default_factory=tuple)
    """``--bind`` or ``--ro-bind``, what, and where in the sandbox."""


class Sandbox:
    """Made by `create`; over when ``result`` is set."""

    def __init__(self, sandbox_id: str, task_id: str, order: Order, folder: Path) -> None:
        self.id = sandbox_id
        self.task_id = task_id
        self.order = order
        self.tags = dict(order.tags)
        self.created = time.time()
        self.jwt = f"e30.e30.{uuid.uuid4().hex}"
        self.root = folder / "root"
        self.execs: dict[str, Process] = {}
        self.result = api_pb2.GenericResult()
        self.over = asyncio.Event()
        self.lost = False
        """Its worker is gone: the router does not know it any more."""
        self.pid = 0
        """PID 1 of the tree, by its number on the host."""
        self._folder = folder
        self._timers: list[asyncio.TimerHandle] = []
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self.entrypoint: Process

    async def start(self) -> None:
        """Make the root and start the tree."""
        definition = self.order.definition
        await asyncio.to_thread(self._furnish)
        told, tell = os.pipe()
        try:
            argv = ["bwrap", "--info-fd", str(tell), *self._arguments(), "--"]
            argv += definition.entrypoint_args or _IDLE
            self.entrypoint = await process.start(argv, self._env({}), self._folder, (tell,))
        finally:
            os.close(tell)
        self.pid = await asyncio.to_thread(_child, told)
        # Until PID 1 has started the entrypoint, the tree is not complete, and must not be entered.
        while not self.entrypoint.ended.done() and not process.children(self.pid):
            await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        expire = api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT
        self._timers.append(loop.call_later(definition.timeout_secs, self.end, expire))
        self.touch()
        self._watch = asyncio.create_task(self._await_entrypoint())

    async def exec(self, exec_id: str, args: Sequence[str], env: Mapping[str, str], workdir: str) -> Process:
        """Run a command beside the entrypoint; an id runs once."""
        if (known := self.execs.get(exec_id)) is not None:
            return known
        where = workdir or self.order.definition.workdir or "/"
        argv = ["nsenter", f"--target={self.pid}", "-U", "-m", "-p", "-n", "-i", "-u", "-r", f"--wdns={where}"]
        started = await process.start([*argv, "--", *args], self._env(env), self._folder)
        started.ended.add_done_callback(lambda _: self.touch())
        self.execs[exec_id] = started
        self.touch()
        return started

    def touch(self) -> None:
        """Something has happened: idle time begins anew, once no command runs."""
        if self._idle is not None:
            self._idle.cancel()
        seconds = self.order.definition.idle_timeout_secs
        if seconds and all(one.ended.done() for one in self.execs.values()):
            idle = api_pb2.GenericResult.GENERIC_STATUS_IDLE_TIMEOUT
            self._idle = asyncio.get_running_loop().call_later(seconds, self.end, idle)

    def end(self, status: "api_pb2.GenericResult.GenericStatus.ValueType", exitcode: int = 0, why: str = "") -> None:
        """Kill everything; only the first reason counts."""
        if self._ending is not None:
            return
        for timer in (*self._timers, self._idle):
            if timer is not None:
                timer.cancel()
        result = api_pb2.GenericResult(status=status, exitcode=exitcode, exception=why)
        self._ending = asyncio.create_task(self._end(result))

    async def ended(self) -> None:
        """Wait until nothing is left of it."""
        if self._ending is not None:
            await self._ending

    async def wait(self, seconds: float) -> api_pb2.GenericResult:
        """Its result, empty if it still runs after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()
        return self.result

    # -- inside

    async def _end(self, result: api_pb2.GenericResult) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self.entrypoint.close()
        await asyncio.gather(*(one.close() for one in self.execs.values()))
        await asyncio.to_thread(shutil.rmtree, self.root, ignore_errors=True)
        self.result = result
        self.over.set()

    async def _await_entrypoint(self) -> None:
        code = await asyncio.shield(self.entrypoint.ended)
        good = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
        self.end(good if code == 0 else api_pb2.GenericResult.GENERIC_STATUS_FAILURE, code)

    def _env(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": _PATH, "HOME": "/root", **self.order.env, **more}

    def _furnish(self) -> None:
        self._folder.mkdir(parents=True)
        if self.order.template is not None:
            copy_tree(self.order.template, self.root)
            return
        for name in ("etc", "home", "opt", "root", "run", "srv", "usr", "var/tmp"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").mkdir()
        for name in ("tmp", "var/tmp"):
            (self.root / name).chmod(0o1777)
        for link, target in _LINKS.items():
            (self.root / link).symlink_to(target)
        (self.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
        (self.root / "etc/group").write_text("root:x:0:\n")

    def _arguments(self) -> list[str]:
        definition = self.order.definition
        arguments = ["--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        if definition.network_access.network_access_type == api_pb2.NetworkAccess.BLOCKED:
            arguments.append("--unshare-net")
        for name in _CAPABILITIES:
            arguments += ["--cap-add", f"CAP_{name}"]
        arguments += ["--die-with-parent", "--hostname", "modal", "--bind", str(self.root), "/"]
        usr = self.order.template and self.order.template / "usr"
        if usr is None or (usr.is_dir() and not any(usr.iterdir())):
            arguments += ["--ro-bind", "/usr", "/usr"]
        for kind, what, where in self.order.binds:
            arguments += [kind, str(what), where]
        return [*arguments, "--proc", "/proc", "--dev", "/dev", "--chdir", definition.workdir or "/"]


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with owners, modes and links."""
    argv = ["cp", "-a", "--reflink=auto", "--", str(source), str(target)]
    if os.spawnvp(os.P_WAIT, argv[0], argv) != 0:  # noqa: S606 - cp knows of sparse files and owners
        raise GRPCError(Status.INTERNAL, f"cannot copy {source}")


def _child(told: int) -> int:
    """What bubblewrap tells about its child; it closes the descriptor when all is told, or when it fails."""
    with open(told) as info:
        text = info.read()
    try:
        return int(json.loads(text)["child-pid"])
    except ValueError as error:
        raise GRPCError(Status.INTERNAL, "bubblewrap made no sandbox") from error
