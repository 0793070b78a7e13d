"""Starts bubblewrap with a runner in it. Blocking; meant for a thread."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolfleet.backends.local import mounts, processes
from toolfleet.backends.local.cgroup import MemoryCgroups
from toolfleet.backends.local.processes import Identity
from toolfleet.backends.runner import config as boot
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runtime import Bundle

#: Seconds until bubblewrap must have made its namespaces.
PATIENCE = 20.0


class LaunchFailed(Exception):
    """bubblewrap or the runner gave up; the message is their own words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one start needs."""

    bwrap: str
    arguments: Sequence[str]
    """bubblewrap's own, without its command."""
    runtime: str
    """Where the bundle is mounted."""
    bundle: Bundle
    config: Config
    uid: int | None
    """The unprivileged user and group that bubblewrap runs as; None for our own."""
    cgroups: MemoryCgroups | None
    cgroup: Path | None
    rootfs: Path | None
    """A base to hand over as a mount whose files belong to the sandbox's root."""
    disk: Callable[[], int] | None
    """Makes a detached mount to hand over as the writable layer; without it that is memory."""
    origin: Path | None = None
    """An archive of a writable layer to begin with, see `snapshots`."""


@dataclass(slots=True)
class Started:
    """A sandbox whose runner is about to serve."""

    runner: Identity
    monitor: Identity
    complaints: int
    """Descriptor of what bubblewrap and the runner print until they serve; to be closed."""

    def words(self) -> str:
        """What they have printed."""
        return os.pread(self.complaints, 4096, 0).decode(errors="replace").strip()

    def close(self) -> None:
        """Stop listening to complaints."""
        os.close(self.complaints)


def launch(plan: Plan, listener: socket.socket, begun: Callable[[Identity], object]) -> Started:
    """Start bubblewrap and hand the runner its configuration.

    ``begun`` is called with bubblewrap's monitor before anything else is done with it. If this process is killed, then
    what it has begun ends by itself, or is found through the monitor.

    Raises:
        LaunchFailed: no process of it is left.
        OSError: this machine is out of something; no process is left either.
    """
    complaints = os.memfd_create("complaints", os.MFD_CLOEXEC)
    try:
        runner, monitor = _Start(plan, complaints).run(listener, begun)
        return Started(runner, monitor, complaints)
    except BaseException:
        os.close(complaints)
        raise


class _Start:
    """The descriptors and processes of one start, all released when it fails."""

    def __init__(self, plan: Plan, complaints: int) -> None:
        self._plan = plan
        self._complaints = complaints
        self._boot, self._boot_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._info, self._info_theirs = os.pipe2(os.O_CLOEXEC)
        self._gate_theirs, self._gate = os.pipe2(os.O_CLOEXEC)
        self._disk = -1

    def run(self, listener: socket.socket, begun: Callable[[Identity], object]) -> tuple[Identity, Identity]:
        """Return the runner and bubblewrap's monitor."""
        try:
            monitor = self._spawn(listener)
            self._close_theirs()
            try:
                begun(monitor)
                if self._plan.disk is not None:  # while bubblewrap makes its namespaces
                    self._disk = self._plan.disk()
                runner = self._child()
                if not monitor.alive:
                    raise LaunchFailed(self._words() or "bubblewrap ended at once")
                self._hand_over(runner)
            except (BrokenPipeError, ProcessLookupError, FileNotFoundError) as error:
                _kill(monitor)
                raise LaunchFailed(self._words() or str(error)) from error
            except BaseException:
                _kill(monitor)
                raise
            return runner, monitor
        finally:
            self._close_theirs()
            self._boot.close()
            for fd in (self._info, self._gate, self._disk):
                if fd >= 0:
                    os.close(fd)

    def _spawn(self, listener: socket.socket) -> Identity:
        """Start bubblewrap; the duty to collect it goes to `processes`, for it outlives any handle of ours."""
        plan = self._plan
        # Our end of the pipe goes along: were it ours alone and we were killed, bubblewrap would die of writing to it,
        # and its child wait for its word for ever. As it is the child goes on, finds no configuration, and ends.
        handed = (listener.fileno(), self._boot_theirs.fileno(), self._info_theirs, self._gate_theirs, self._info)
        listen, channel, info, gate, _ = (str(fd) for fd in handed)
        command = [plan.bwrap, *plan.arguments, "--info-fd", info, "--block-fd", gate, "--"]
        command += plan.bundle.argv(plan.runtime, listen, channel)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._complaints,
            pass_fds=handed,
            start_new_session=True,
            cwd="/",
            env={},
            user=plan.uid,
            group=plan.uid,
            extra_groups=None if plan.uid is None else (),
        )
        processes.adopt(process.pid)
        process.returncode = 0  # from here on nobody waits through this handle
        return Identity.of_child(process.pid)

    def _close_theirs(self) -> None:
        self._boot_theirs.close()
        for name in ("_info_theirs", "_gate_theirs"):
            if (fd := getattr(self, name)) >= 0:
                os.close(fd)
                setattr(self, name, -1)

    def _child(self) -> Identity:
        """Who PID 1 of the sandbox is, as bubblewrap tells."""
        told = b""
        until = time.monotonic() + PATIENCE
        while not told.rstrip().endswith(b"}"):
            if not select.select([self._info], [], [], max(0.0, until - time.monotonic()))[0]:
                raise LaunchFailed(f"bubblewrap made no sandbox within {PATIENCE:.0f} s. {self._words()}")
            data = os.read(self._info, 4096)
            if not data:
                raise LaunchFailed(self._words() or "bubblewrap ended without a word")
            told += data
        child = Identity.of(json.loads(told)["child-pid"])
        if child is None:
            raise LaunchFailed(self._words() or "the sandbox ended at once")
        return child

    def _hand_over(self, runner: Identity) -> None:
        """Put the waiting runner into its cgroup, send it its configuration, let it go."""
        plan = self._plan
        fds: dict[str, int] = {}
        try:
            if plan.cgroups is not None and plan.cgroup is not None:
                # Before the gate opens: memory is charged to where a process is when it first touches it.
                plan.cgroups.add(plan.cgroup, runner.pid)
                fds["oom"] = plan.cgroups.counter(plan.cgroup)
            if plan.rootfs is not None:
                fds["lower"] = _base_mount(plan.rootfs, runner)
            if plan.origin is not None:
                fds["origin"] = os.open(plan.origin, os.O_RDONLY | os.O_CLOEXEC)
            disk = {} if self._disk < 0 else {"disk": self._disk}
            boot.send(self._boot, plan.config, fds | disk)
        finally:
            for fd in fds.values():
                os.close(fd)
        with contextlib.suppress(BrokenPipeError):  # its end is noticed by whoever connects
            os.write(self._gate, b"1")

    def _words(self) -> str:
        return os.pread(self._complaints, 4096, 0).decode(errors="replace").strip()


def _base_mount(rootfs: Path, runner: Identity) -> int:
    until = time.monotonic() + PATIENCE
    namespace = os.open(f"/proc/{runner.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while not Path(f"/proc/{runner.pid}/uid_map").read_text():
            if time.monotonic() > until:
                raise LaunchFailed("bubblewrap wrote no user mapping")
            time.sleep(0.001)
        return mounts.owned_mount(rootfs, namespace)
    finally:
        os.close(namespace)


def _kill(monitor: Identity) -> None:
    """Kill bubblewrap, and then its child, which would wait for its word for ever; by then there comes no other."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(monitor.pid, signal.SIGKILL)
    processes.await_end(monitor.pid)
    for child in processes.begun_by(monitor):
        child.kill()
    processes.collect(monitor.pid)


def undo(started: Started) -> None:
    """Kill what was started."""
    _kill(started.monitor)
    started.close()
