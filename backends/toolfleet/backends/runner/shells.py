"""The persistent shells of a sandbox, by name: the operation `shell`."""

import os
from collections.abc import Callable

from toolfleet.backends.runner.arguments import text
from toolfleet.backends.runner.calls import Call, Finished
from toolfleet.backends.runner.children import Children
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.operations import Starter, Work
from toolfleet.backends.runner.reactor import Reactor
from toolfleet.backends.runner.shell import COMMANDS, START, STDERR, STDOUT, WAKE, WORDS, Shell
from toolfleet.backends.runner.spawn import CannotStart

#: Shells that a sandbox has at most.
MOST = 8
#: The longest name of a shell.
LONGEST_NAME = 64
#: Whose shell it is when the request names none.
DEFAULT = "default"

#: Which of its descriptors a shell reads from; it writes to the others.
_READ = (COMMANDS, WAKE)


class Shells:
    """Starts shells when they are first used, and anew when one is gone."""

    def __init__(
        self,
        reactor: Reactor,
        children: Children,
        starter: Starter,
        config: Config,
        answer: Callable[[Call, Finished], None],
    ) -> None:
        self._reactor = reactor
        self._children = children
        self._starter = starter
        self._config = config
        self._answer = answer
        self._shells: dict[str, Shell] = {}

    @property
    def idle(self) -> int:
        """Shells that wait for a command."""
        return sum(1 for shell in self._shells.values() if shell.alive and not shell.busy)

    def forget(self) -> None:
        """Let go of all; they have ended."""
        for shell in self._shells.values():
            shell.close()
        self._shells.clear()

    def run(self, call: Call, work: Work) -> None:
        """Run a command in a shell.

        Raises:
            CannotStart: the shell is busy, or there is none to be had.
        """
        name = text(work.args, "name") if work.args.get("name") is not None else DEFAULT
        command = text(work.args, "command").encode("utf-8", "surrogateescape")
        if b"\0" in command or "\0" in work.call_id:
            raise CannotStart("Cannot start a command that holds a NUL byte")
        if not 0 < len(name) <= LONGEST_NAME:
            raise CannotStart(f"The name of a shell has 1 to {LONGEST_NAME} characters")
        shell = self._shells.get(name)
        if shell is not None and shell.busy:
            raise CannotStart(f"The shell {name!r} is busy with another command; wait for it, or name another shell")
        began = "kept"
        if shell is None or not shell.alive:
            began = "new" if shell is None else "anew"
            shell = self._start(name)
        # How the shell was found: as the command before had left it, new, or new because the former one had died.
        call.detail = {"shell": name, "began": began}
        shell.run(call, command)

    def _start(self, name: str) -> Shell:
        former = self._shells.pop(name, None)
        if former is not None:
            former.close()
        if len(self._shells) >= MOST:
            raise CannotStart(f"There are {MOST} shells already: use one of {', '.join(sorted(self._shells))}")
        theirs: dict[int, int] = {}
        ours: dict[int, int] = {}
        try:
            for number in (STDOUT, STDERR, COMMANDS, WORDS, WAKE):
                read, write = os.pipe2(os.O_CLOEXEC)
                theirs[number], ours[number] = (read, write) if number in _READ else (write, read)
                os.set_blocking(ours[number], False)
            pid = self._starter.interpreter(f"shell {name}", START, theirs)
        except BaseException as error:
            for fd in ours.values():
                os.close(fd)
            if isinstance(error, OSError):
                raise CannotStart(f"Cannot start a shell: {error.strerror}") from error
            raise
        finally:
            for fd in theirs.values():
                os.close(fd)
        shell = Shell(self._reactor, self._children, self._config.grace, self._config.keep, ours, self._answer)
        shell.serve(pid)
        self._shells[name] = shell
        return shell
