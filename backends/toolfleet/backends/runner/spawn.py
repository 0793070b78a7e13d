"""How a command or an applet becomes a process of its own, with pipes for its two streams."""

import json
import os
import resource
import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from toolfleet.backends.runner.config import Config

#: Processes that the runner may start beyond the limit of the commands, so that it can always act.
HEADROOM = 16
#: The longest single argument that the kernel passes to a program, its final NUL not counted.
MAX_ARGUMENT = 131_071

#: Commands start with every signal as it usually is. Of one that is not named here the C library asks first how it
#: stands, and sets it nevertheless: twice the system calls.
_SIGNALS = sorted(signal.valid_signals())
_SHELLS = (("/usr/bin/bash", b"bash"), ("/bin/bash", b"bash"), ("/bin/sh", b"sh"), ("/usr/bin/sh", b"sh"))

Applet = Callable[[int], Mapping[str, Any]]
"""Writes its data to a descriptor and returns its detail; an error sentence under the key ``error``."""


class CannotStart(Exception):
    """A command could not be started; the message says why, in a sentence."""


class Child(NamedTuple):
    """A started process and the reading ends of its streams, which do not block."""

    pid: int
    stdout: int
    stderr: int


class Spawner:
    """Starts processes under the limits of one sandbox."""

    def __init__(self, config: Config) -> None:
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        self._memory = config.memory if config.monitor else None
        self._shell = _find_shell()
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        # The runner itself counts as one process of the user namespace.
        limits = _process_limits(config.pids) if config.count else (hard, hard)
        self._commands, self._runner = (n if hard == resource.RLIM_INFINITY else min(n, hard) for n in limits)
        # The runner uses its headroom only when it asks for it, see `applet`: a command, which starts with what holds
        # here, cannot use it up before its own limit is set.
        resource.setrlimit(resource.RLIMIT_NPROC, (self._commands, self._runner))
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        self._pids = config.pids

    def command(self, command: bytes, cwd: bytes, env: Mapping[bytes, bytes]) -> Child:
        """Start ``command`` by a shell in ``cwd``.

        Raises:
            CannotStart: it never ran.
        """
        _check_argument(command)
        if cwd == b"/":  # where the runner always is
            return self._by_shell(command, env)
        try:
            os.chdir(cwd)
        except (OSError, ValueError) as error:
            raise CannotStart(f"Cannot start in {cwd.decode(errors='backslashreplace')}: {_reason(error)}") from error
        try:
            return self._by_shell(command, env)
        finally:
            os.chdir("/")

    def _by_shell(self, command: bytes, env: Mapping[bytes, bytes]) -> Child:
        shell = self._shell
        try:
            if shell is not None:
                return self._spawn(shell, command, env)
        except FileNotFoundError as error:
            if _find_shell() == shell:  # it is there, but not its loader
                raise CannotStart(f"Cannot start a command: {_reason(error)}") from error
        self._shell = shell = _find_shell()
        if shell is None:
            raise CannotStart("Cannot start a command: the sandbox has no shell (bash or sh)")
        try:
            return self._spawn(shell, command, env)
        except FileNotFoundError as error:
            raise CannotStart(f"Cannot start a command: {_reason(error)}") from error

    def _spawn(self, shell: tuple[str, bytes], command: bytes, env: Mapping[bytes, bytes]) -> Child:
        """Start it; FileNotFoundError passes through, for it may mean that another shell is to be tried."""
        pipes = _pipes()
        try:
            actions = (
                (os.POSIX_SPAWN_DUP2, self._null, 0),
                (os.POSIX_SPAWN_DUP2, pipes[1], 1),
                (os.POSIX_SPAWN_DUP2, pipes[3], 2),
            )
            argv = (shell[1], b"-c", command)
            # A shell that is not told which one it is looks its user up at every start.
            env = {b"SHELL": shell[0].encode(), **env}
            pid = os.posix_spawn(
                shell[0], argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS
            )
        except BaseException as error:
            os.close(pipes[0])
            os.close(pipes[2])
            if isinstance(error, (OSError, ValueError)) and not isinstance(error, FileNotFoundError):
                raise CannotStart(f"Cannot start a command: {self._why(error)}") from error
            raise
        finally:
            os.close(pipes[1])
            os.close(pipes[3])
        self._restrain(pid)
        return Child(pid, pipes[0], pipes[2])

    def applet(self, applet: Applet) -> Child:
        """Run ``applet`` in a forked child: a path that hangs must not hang the runner.

        Its detail, or its error, is the JSON object that it prints to its standard error.

        Raises:
            CannotStart: it never ran.
        """
        pipes = _pipes()
        try:
            resource.setrlimit(resource.RLIMIT_NPROC, (self._runner, self._runner))
            try:
                pid = os.fork()
                if pid == 0:
                    _run_applet(applet, pipes[1], pipes[3])
            finally:  # not reached by the child, whose limits may have been lowered by now
                resource.setrlimit(resource.RLIMIT_NPROC, (self._commands, self._runner))
        except OSError as error:
            os.close(pipes[0])
            os.close(pipes[2])
            raise CannotStart(f"Cannot start a file operation: {self._why(error)}") from error
        finally:
            os.close(pipes[1])
            os.close(pipes[3])
        self._restrain(pid)
        return Child(pid, pipes[0], pipes[2])

    def _restrain(self, pid: int) -> None:
        try:
            resource.prlimit(pid, resource.RLIMIT_NPROC, (self._commands, self._commands))
            if self._memory is not None:
                resource.prlimit(pid, resource.RLIMIT_DATA, (self._memory, self._memory))
            # When memory runs out the kernel must pick a command, never the runner.
            fd = os.open(f"{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except OSError:  # it has ended already
            return
        try:
            os.write(fd, b"1000")
        except OSError:
            pass
        finally:
            os.close(fd)

    def _why(self, error: Exception) -> str:
        if isinstance(error, BlockingIOError):  # EAGAIN
            return f"the sandbox may have {self._pids} processes at once, and all of them are in use"
        return _reason(error)


def _process_limits(pids: int) -> tuple[int, int]:
    return pids + 1, pids + 1 + HEADROOM


def _find_shell() -> tuple[str, bytes] | None:
    """Path and name of the sandbox's shell, by which it is called."""
    return next(((path, name) for path, name in _SHELLS if os.path.exists(path)), None)


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


def _pipes() -> tuple[int, int, int, int]:
    """Two pipes, as (read, write, read, write); reading does not block."""
    try:
        out, theirs_out = os.pipe2(os.O_CLOEXEC)
        try:
            err, theirs_err = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(out)
            os.close(theirs_out)
            raise
    except OSError as error:
        raise CannotStart(f"Cannot start a command: {_reason(error)}") from error
    os.set_blocking(out, False)
    os.set_blocking(err, False)
    return out, theirs_out, err, theirs_err


def _run_applet(applet: Applet, out: int, err: int) -> None:
    """The forked child; never returns into the runner's loop."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        detail = applet(out)
        os.write(err, json.dumps(dict(detail)).encode("ascii"))
        os._exit(0)
    finally:
        os._exit(70)
