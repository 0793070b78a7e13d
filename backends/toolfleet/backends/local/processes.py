"""Processes by (number, start time): a number alone may belong to somebody else by now."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of this boot of the machine."""

    pid: int
    start: int
    """In clock ticks since boot."""

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Identify the live process ``pid``; None when it has ended."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return type(self).of(self.pid) == self

    def open(self) -> int | None:
        """A pidfd of the process, which keeps meaning it and nothing else; None when it has ended."""
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return None
        if self.alive:
            return fd
        os.close(fd)
        return None


async def wait(identity: Identity, patience: float, *, kill: bool) -> bool:
    """Wait until a process has ended, ``kill`` it first if so told; False when ``patience`` seconds do not suffice."""
    fd = identity.open()
    if fd is None:
        return True
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    try:
        loop.add_reader(fd, _set, ended)
        if kill:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        await asyncio.wait_for(ended, patience)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return True


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def boot_id() -> str:
    """Identity of this boot: start times of another one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


#: Children of this process that were started for sandboxes and are nobody else's to wait for.
_children: set[int] = set()


def adopt(pid: int) -> None:
    """Take over the duty to collect the child ``pid``."""
    _children.add(pid)


def reap() -> None:
    """Collect those adopted children that have ended."""
    for pid in list(_children):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _children.discard(pid)


def await_stop(pid: int) -> None:
    """Wait until the adopted child ``pid``, which was told to stop, has stopped or ended; it stays to be collected."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def collect(pid: int) -> None:
    """Wait for the adopted child ``pid``, which has been killed."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    _children.discard(pid)
