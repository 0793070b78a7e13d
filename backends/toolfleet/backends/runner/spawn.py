"""How a command or an applet becomes a process of its own, with pipes for its two streams."""

import contextlib
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolfleet.backends.runner.config import Config

#: Processes that the runner may start beyond the limit of the commands, so that it can always act.
HEADROOM = 16
#: The longest single argument that the kernel passes to a program, its final NUL not counted.
MAX_ARGUMENT = 131_071

_SIGNALS = sorted(signal.valid_signals())
_SHELLS = (("/usr/bin/bash", "bash"), ("/bin/bash", "bash"), ("/bin/sh", "sh"), ("/usr/bin/sh", "sh"))

Applet = Callable[[int], Mapping[str, Any]]
"""Writes its data to a descriptor and returns its detail; an error sentence under the key ``error``."""


class CannotStart(Exception):
    """A command could not be started; the message says why, in a sentence."""


@dataclass(frozen=True, slots=True)
class Child:
    """A started process and the reading ends of its streams, which do not block."""

    pid: int
    stdout: int
    stderr: int


class Spawner:
    """Starts processes under the limits of one sandbox."""

    def __init__(self, config: Config) -> None:
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._memory = config.memory if config.monitor else None
        # The runner itself counts as one process of the user namespace.
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        limits = [n if hard == resource.RLIM_INFINITY else min(n, hard) for n in _process_limits(config.pids)]
        self._commands, self._runner = limits
        resource.setrlimit(resource.RLIMIT_NPROC, (self._runner, self._runner))
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        self._pids = config.pids

    def command(self, command: bytes, cwd: bytes, env: Mapping[bytes, bytes]) -> Child:
        """Start ``command`` by a shell in ``cwd``.

        Raises:
            CannotStart: it never ran.
        """
        _check_argument(command)
        shell, name = _find_shell()
        try:
            os.chdir(cwd)
        except (OSError, ValueError) as error:
            raise CannotStart(f"Cannot start in {cwd.decode(errors='backslashreplace')}: {_reason(error)}") from error
        try:
            return self._spawn(shell, [name.encode(), b"-c", command], env)
        finally:
            os.chdir("/")

    def _spawn(self, program: str, argv: list[bytes], env: Mapping[bytes, bytes]) -> Child:
        with _pipes() as (out_read, out_write, err_read, err_write):
            actions = (
                (os.POSIX_SPAWN_DUP2, self._null, 0),
                (os.POSIX_SPAWN_DUP2, out_write, 1),
                (os.POSIX_SPAWN_DUP2, err_write, 2),
            )
            # Lowered around the spawn: a command cannot use up the headroom before its own limit is set below.
            resource.setrlimit(resource.RLIMIT_NPROC, (self._commands, self._runner))
            try:
                pid = os.posix_spawn(
                    program, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS
                )
            except (OSError, ValueError) as error:
                raise CannotStart(f"Cannot start a command: {self._why(error)}") from error
            finally:
                resource.setrlimit(resource.RLIMIT_NPROC, (self._runner, self._runner))
            self._restrain(pid)
            return Child(pid, out_read, err_read)

    def applet(self, applet: Applet) -> Child:
        """Run ``applet`` in a forked child: a path that hangs must not hang the runner.

        Its detail, or its error, is the JSON object that it prints to its standard error.

        Raises:
            CannotStart: it never ran.
        """
        with _pipes() as (out_read, out_write, err_read, err_write):
            try:
                pid = os.fork()
            except OSError as error:
                raise CannotStart(f"Cannot start a file operation: {self._why(error)}") from error
            if pid == 0:
                _run_applet(applet, out_write, err_write)
            self._restrain(pid)
            return Child(pid, out_read, err_read)

    def _restrain(self, pid: int) -> None:
        with contextlib.suppress(OSError):  # it may have ended already
            resource.prlimit(pid, resource.RLIMIT_NPROC, (self._commands, self._commands))
            if self._memory is not None:
                resource.prlimit(pid, resource.RLIMIT_DATA, (self._memory, self._memory))
        with contextlib.suppress(OSError):
            # When memory runs out the kernel must pick a command, never the runner.
            fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY)
            try:
                os.write(fd, b"1000")
            finally:
                os.close(fd)

    def _why(self, error: Exception) -> str:
        if isinstance(error, BlockingIOError):  # EAGAIN
            return f"the sandbox may have {self._pids} processes at once, and all of them are in use"
        return _reason(error)


def _process_limits(pids: int) -> tuple[int, int]:
    return pids + 1, pids + 1 + HEADROOM


def _find_shell() -> tuple[str, str]:
    for path, name in _SHELLS:
        if os.path.exists(path):
            return path, name
    raise CannotStart("Cannot start a command: the sandbox has no shell (bash or sh)")


def _check_argument(command: bytes) -> None:
    if b"\0" in command:
        raise CannotStart("Cannot start a command that holds a NUL byte")
    if len(command) > MAX_ARGUMENT:
        raise CannotStart(
            f"The command is {len(command)} bytes long and the kernel passes at most {MAX_ARGUMENT}: "
            "write it to a file and run that"
        )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[int, int, int, int]]:
    """Two pipes, as (read, write, read, write); the writing ends close at the end, all of them after an error."""
    fds: list[int] = []
    try:
        for _ in range(2):
            try:
                fds += os.pipe2(os.O_CLOEXEC)
            except OSError as error:
                raise CannotStart(f"Cannot start a command: {_reason(error)}") from error
            os.set_blocking(fds[-2], False)
        yield fds[0], fds[1], fds[2], fds[3]
    except BaseException:
        for fd in fds[::2]:
            os.close(fd)
        raise
    finally:
        for fd in fds[1::2]:
            os.close(fd)


def _run_applet(applet: Applet, out: int, err: int) -> None:
    """The forked child; never returns into the runner's loop."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        detail = applet(out)
        os.write(err, json.dumps(dict(detail)).encode("ascii"))
        os._exit(0)
    finally:
        os._exit(70)
