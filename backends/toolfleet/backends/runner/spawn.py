"""How a command or an applet becomes a process of its own, with pipes for its two streams."""

import json
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from toolfleet.backends.runner import ends
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.ends import Outputs, Sides, lifted
from toolfleet.backends.runner.oom_rank import OomRank

#: Processes that the runner may start beyond the limit of the commands, so that it can always act.
HEADROOM = 16
#: The longest single argument that the kernel passes to a program, its final NUL not counted.
MAX_ARGUMENT = 131_071

#: Commands start with every signal as it usually is. Of one that is not named here the C library asks first how it
#: stands, and sets it nevertheless: twice the system calls.
_SIGNALS = sorted(signal.valid_signals())
_SHELLS = (("/usr/bin/bash", b"bash"), ("/bin/bash", b"bash"), ("/bin/sh", b"sh"), ("/usr/bin/sh", b"sh"))

_DUP = os.POSIX_SPAWN_DUP2
_Action = tuple[Any, ...]
"""One of the file actions of ``posix_spawn``."""

Applet = Callable[[int], Mapping[str, Any]]
"""Writes its data to a descriptor and returns its detail; an error sentence under the key ``error``."""


class CannotStart(Exception):
    """A command could not be started; the message says why, in a sentence."""


class Child(NamedTuple):
    """A started process and the reading ends of its streams, which do not block."""

    pid: int
    stdout: int
    stderr: int | None
    """None where a terminal takes both."""


class Attended(NamedTuple):
    """A started process with an input; our ends do not block."""

    pid: int
    input: int
    output: int
    """Both of its streams."""


class Spawner:
    """Starts processes under the limits of one sandbox."""

    def __init__(self, config: Config) -> None:
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._rank = OomRank()
        self._memory = config.memory if config.monitor else None
        self._shell = _find_shell()
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        # The runner itself counts as one process of the user namespace.
        limits = _process_limits(config.pids) if config.count else (hard, hard)
        self._commands, self._runner = (n if hard == resource.RLIM_INFINITY else min(n, hard) for n in limits)
        # The runner uses its headroom only when it asks for it, see `applet`: a command, which starts with what holds
        # here, cannot use it up before its own limit is set, unless it is quick to raise its limit by itself.
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
        pipes = self._outputs("a command")
        try:
            actions = ((_DUP, self._null, 0), (_DUP, pipes.their_out, 1), (_DUP, pipes.their_err, 2))
            pid = self._by_shell(command, cwd, env, actions)
        except BaseException:
            os.close(pipes.out)
            os.close(pipes.err)
            raise
        finally:
            os.close(pipes.their_out)
            os.close(pipes.their_err)
        return Child(pid, pipes.out, pipes.err)

    def attended(
        self, command: bytes, cwd: bytes, env: Mapping[bytes, bytes], window: tuple[int, int] | None
    ) -> Attended:
        """Start ``command`` with an input of its own, and one stream for all that it prints.

        With a ``window`` (rows, columns) both are a terminal.

        Raises:
            CannotStart: it never ran.
        """
        _check_argument(command)
        sides = _sides(window)
        try:
            if window is None:
                actions = _redirected({0: sides.their_input, 1: sides.their_output, 2: sides.their_output})
            else:
                # Opened anew in the child, which leads a session by then: so the terminal becomes its own.
                path = f"/proc/self/fd/{sides.their_input}"
                actions = ((os.POSIX_SPAWN_OPEN, 0, path, os.O_RDWR, 0), *_redirected({1: 0, 2: 0}))
            pid = self._by_shell(command, cwd, env, actions)
        except BaseException:
            os.close(sides.input)
            os.close(sides.output)
            raise
        finally:
            for fd in {sides.their_input, sides.their_output}:
                os.close(fd)
        return Attended(pid, sides.input, sides.output)

    def interpreter(self, script: bytes, cwd: bytes, env: Mapping[bytes, bytes], held: Mapping[int, int]) -> int:
        """Start bash with a script of the runner's own, which finds the descriptors ``held`` under these numbers.

        Raises:
            CannotStart: it never ran.
        """
        self._shell = _find_shell()
        if self._shell is None or self._shell[1] != b"bash":
            raise CannotStart("A persistent shell needs bash, which the sandbox does not have")
        sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with lifted({0: self._null, 1: sink, 2: sink, **held}) as copies:
                return self._by_shell(script, cwd, env, _redirected(copies))
        except OSError as error:
            raise CannotStart(f"Cannot start a shell: {_reason(error)}") from error
        finally:
            os.close(sink)

    def _by_shell(self, command: bytes, cwd: bytes, env: Mapping[bytes, bytes], actions: Sequence[_Action]) -> int:
        if cwd == b"/":  # where the runner always is
            return self._by_found_shell(command, env, actions)
        try:
            os.chdir(cwd)
        except (OSError, ValueError) as error:
            raise CannotStart(f"Cannot start in {cwd.decode(errors='backslashreplace')}: {_reason(error)}") from error
        try:
            return self._by_found_shell(command, env, actions)
        finally:
            os.chdir("/")

    def _by_found_shell(self, command: bytes, env: Mapping[bytes, bytes], actions: Sequence[_Action]) -> int:
        shell = self._shell
        try:
            if shell is not None:
                return self._spawn(shell, command, env, actions)
        except FileNotFoundError as error:
            if _find_shell() == shell:  # it is there, but not its loader
                raise CannotStart(f"Cannot start a command: {_reason(error)}") from error
        self._shell = shell = _find_shell()
        if shell is None:
            raise CannotStart("Cannot start a command: the sandbox has no shell (bash or sh)")
        try:
            return self._spawn(shell, command, env, actions)
        except FileNotFoundError as error:
            raise CannotStart(f"Cannot start a command: {_reason(error)}") from error

    def _spawn(
        self, shell: tuple[str, bytes], command: bytes, env: Mapping[bytes, bytes], actions: Sequence[_Action]
    ) -> int:
        """Start it; FileNotFoundError passes through, for it may mean that another shell is to be tried."""
        try:
            argv = (shell[1], b"-c", command)
            # A shell that is not told which one it is looks its user up at every start.
            env = {b"SHELL": shell[0].encode(), **env}
            with self._rank:
                pid = os.posix_spawn(
                    shell[0], argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS
                )
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise CannotStart(f"Cannot start a command: {self._why(error)}") from error
        self._restrain(pid)
        return pid

    def applet(self, applet: Applet) -> Child:
        """Run ``applet`` in a forked child: a path that hangs must not hang the runner.

        Its detail, or its error, is the JSON object that it prints to its standard error.

        Raises:
            CannotStart: it never ran.
        """
        pipes = self._outputs("a file operation")
        try:
            resource.setrlimit(resource.RLIMIT_NPROC, (self._runner, self._runner))
            try:
                with self._rank:
                    pid = os.fork()
                    if pid == 0:
                        _run_applet(applet, pipes.their_out, pipes.their_err)
            finally:  # not reached by the child, whose limits may have been lowered by now
                resource.setrlimit(resource.RLIMIT_NPROC, (self._commands, self._runner))
        except OSError as error:
            os.close(pipes.out)
            os.close(pipes.err)
            raise CannotStart(f"Cannot start a file operation: {self._why(error)}") from error
        finally:
            os.close(pipes.their_out)
            os.close(pipes.their_err)
        self._restrain(pid)
        return Child(pid, pipes.out, pipes.err)

    def _outputs(self, what: str) -> Outputs:
        try:
            return ends.outputs()
        except OSError as error:
            raise CannotStart(f"Cannot start {what}: {_reason(error)}") from error

    def _restrain(self, pid: int) -> None:
        try:
            resource.prlimit(pid, resource.RLIMIT_NPROC, (self._commands, self._commands))
            if self._memory is not None:
                resource.prlimit(pid, resource.RLIMIT_DATA, (self._memory, self._memory))
        except OSError:  # it has ended already
            return
        self._rank.give(pid)

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


def _sides(window: tuple[int, int] | None) -> Sides:
    what = "a command" if window is None else "a terminal"
    try:
        return ends.pipes() if window is None else ends.terminal(*window)
    except OSError as error:
        raise CannotStart(f"Cannot start {what}: {_reason(error)}") from error


def _redirected(descriptors: Mapping[int, int]) -> tuple[_Action, ...]:
    """What a child does to find descriptors under other numbers."""
    return tuple((_DUP, mine, theirs) for theirs, mine in descriptors.items())


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
