"""Processes by (number, start time): a number alone may belong to somebody else by now."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

#: Fields of /proc/PID/stat behind the name.
_STATE, _SESSION, _START = 0, 3, 19
#: Seconds in which the leader of a sandbox's session has begun its PID 1, or never will.
_SOON = 60.0


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
            fields = _stat(pid)
        except OSError:
            return None
        return None if fields[_STATE] in (b"Z", b"X") else cls(pid, int(fields[_START]))

    @classmethod
    def of_child(cls, pid: int) -> Self:
        """Identify a child of ours that nobody has collected, whether it lives or has ended.

        Raises:
            OSError: /proc does not show it.
        """
        return cls(pid, int(_stat(pid)[_START]))

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

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if (fd := self.open()) is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


def me() -> Identity:
    """This process.

    Raises:
        OSError: /proc does not show it.
    """
    return Identity.of_child(os.getpid())


def begun_by(leader: Identity) -> Iterator[Identity]:
    """Live processes in the session of ``leader`` that are PID 1 of a sandbox and were begun soon after it.

    The leader itself may have ended: the kernel gives its number to nobody else while somebody is in the session. Where
    another process has the number now, the session is over. Where others had it meanwhile, they came later.
    """
    with contextlib.suppress(OSError):
        if int(_stat(leader.pid)[_START]) != leader.start:
            return
    latest = leader.start + int(_SOON * os.sysconf("SC_CLK_TCK"))
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = _stat(int(entry.name))
            began = int(fields[_START])
            if int(fields[_SESSION]) == leader.pid and leader.start <= began <= latest and _is_first(entry):
                yield Identity(int(entry.name), began)


def _is_first(process: Path) -> bool:
    """Whether it is PID 1 of a pid namespace below ours."""
    numbers = (process / "status").read_text().partition("\nNSpid:")[2].partition("\n")[0].split()
    return len(numbers) > 1 and numbers[-1] == "1"


def _stat(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


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


def await_end(pid: int) -> None:
    """Wait until the adopted child ``pid``, which has been killed, has ended; it stays to be collected."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def collect(pid: int) -> None:
    """Wait for the adopted child ``pid``, which has been killed."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    _children.discard(pid)
