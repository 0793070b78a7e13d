"""A persistent shell: bash that runs one command after another and keeps what they leave in it.

The end of a command is told on a descriptor of its own, so that nothing a command prints is ever taken for it. Before
each command the shell makes a *copy* of itself, which waits. When the command ends in good order the copy goes; when
it took the shell along (``exit``, ``exec``, ``set -e``, a deadline) the copy goes on in its place, with the state as it
was before that command.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from toolfleet.backends.runner import killer, procfs
from toolfleet.backends.runner.calls import CANCELLED, TIMED_OUT, Call, Finished, outcome
from toolfleet.backends.runner.capture import Capture
from toolfleet.backends.runner.children import Children
from toolfleet.backends.runner.killer import Target, TreeKill
from toolfleet.backends.runner.reactor import Reactor
from toolfleet.backends.runner.streams import Reader, Writer, Writing

#: What the shell finds under which number; high ones, which scripts hardly use.
STDOUT, STDERR, COMMANDS, WORDS, WAKE = 250, 251, 252, 253, 254
#: The longest thing that the shell has to say.
_LONGEST_WORD = 256

#: What the shell is started with, and what it is told first: its arguments are seen in every list of processes.
START = b"IFS= builtin read -r -d '' -u 252 __toolfleet_loop && builtin eval \"$__toolfleet_loop\""
#: Commands arrive as ``call id NUL command NUL``. `BEGUN` tells which copy waits, `ENDED` the exit code.
BEGUN, ENDED = b"begun", b"ended"
_LOOP = rb"""
__toolfleet_status() { return "${1-0}"; }
while :; do
  while IFS= builtin read -r -d '' -u 252 TOOLFLEET_CALL && IFS= builtin read -r -d '' -u 252 __toolfleet_command; do
    export TOOLFLEET_CALL
    __toolfleet_flags=$-
    __toolfleet_copy=$(
      {
        builtin printf '%s' "$BASHPID"
        exec >/dev/null
        IFS= builtin read -r -u 254 || exit
        case $__toolfleet_flags in *e*) set -e ;; esac
        builtin eval "$__toolfleet_loop"
      } &
    )
    builtin printf 'begun %d\n' "$__toolfleet_copy" >&253
    __toolfleet_status ${__toolfleet_last-}
    builtin eval "$__toolfleet_command" </dev/null >&250 2>&251 250>&- 251>&- 252<&- 253>&- 254<&-
    __toolfleet_last=$?
    # A command that has closed what the shell talks by has ended the shell.
    builtin printf 'ended %d\n' "$__toolfleet_last" >&253 || exit "$__toolfleet_last"
  done
  # A ``break`` of the command has left the inner loop.
  builtin printf 'ended 0\n' >&253 || exit 0
done
"""


class Shell:
    """One live shell, with at most one command at a time."""

    killed_for = ""
    """Why the monitor has killed one of its processes."""

    def __init__(
        self,
        reactor: Reactor,
        children: Children,
        grace: float,
        keep: int,
        ours: dict[int, int],
        answer: Callable[[Call, Finished], None],
    ) -> None:
        self.pid = 0
        """Whoever runs the commands now; 0 when there is nobody."""
        self._reactor = reactor
        self._children = children
        self._grace = grace
        self._keep = keep
        self._answer = answer
        self._out, self._err = Capture(keep), Capture(keep)
        self._readers = [
            Reader(reactor, ours[STDOUT], lambda data: self._out.feed(data)),
            Reader(reactor, ours[STDERR], lambda data: self._err.feed(data)),
            Reader(reactor, ours[WORDS], self._hear),
        ]
        self._commands = Writer(reactor, ours[COMMANDS])
        self._wake = Writer(reactor, ours[WAKE])
        self._heard = b""
        self._commands.write(Writing(_LOOP + b"\0"))
        self._session = 0
        self._copy = 0
        self._dying: set[int] = set()
        """Copies that were killed, and have not ended yet."""
        self._asleep = False
        """Whoever runs the commands now has not been told so."""
        self._earlier: set[tuple[int, int]] = set()
        """Who was there before the command: numbers and starts, which are too coarse to tell by themselves."""
        self._call: Call | None = None
        self._kill: TreeKill | None = None

    @property
    def alive(self) -> bool:
        """It can take a command, now or after the one that runs."""
        return self.pid != 0

    @property
    def busy(self) -> bool:
        """A command runs."""
        return self._call is not None

    def serve(self, pid: int) -> None:
        """The process ``pid`` runs the commands from now on."""
        self.pid = pid
        self._session = self._session or pid
        self._children.watch(pid, self, lambda code: self._ended(pid, code))

    def run(self, call: Call, command: bytes) -> None:
        """Run ``command`` for ``call``; its standard input is empty."""
        self._call, self.killed_for = call, ""
        call.on_stop = self._stop
        self._earlier = {(p.pid, p.start) for p in procfs.processes() if p.pid != self.pid}
        self._children.join(self)
        self._commands.write(Writing(b"%s\0%s\0" % (call.id.encode("utf-8", "surrogateescape"), command)))

    def close(self) -> None:
        """Let go of it; its processes are nobody's any more."""
        for reader in self._readers:
            reader.close()
        for writer in (self._commands, self._wake):
            writer.close()

    # -- what it says ---------------------------------------------------------------------------------------------

    def _hear(self, data: bytes) -> None:
        *words, self._heard = (self._heard + data).split(b"\n")
        self._heard = self._heard[-_LONGEST_WORD:]
        for word in words:
            what, _, figure = word.partition(b" ")
            # A command can find this descriptor and forge a word: it ends its own call by that, and no other.
            if self._call is None or self._kill is not None or not figure.isdigit() or len(figure) > 9:
                continue
            if what == BEGUN and not self._copy:
                self._copy = self._kin(int(figure))
            elif what == ENDED:
                self._dismiss_copy()
                self._finish(int(figure) & 255, "kept")

    def _kin(self, pid: int) -> int:
        """``pid`` if it is a child of the runner in the session of the shell, as a waiting copy is; else 0."""
        ours = (pid, os.getpid(), self._session)
        fits = any((p.pid, p.parent, p.session) == ours for p in procfs.processes())
        return pid if fits and pid != self.pid else 0

    def _dismiss_copy(self) -> None:
        copy, self._copy = self._kin(self._copy), 0
        if copy:
            self._dying.add(copy)
            self._children.watch(copy, self, lambda _: self._gone(copy))
            os.kill(copy, signal.SIGKILL)

    def _gone(self, copy: int) -> None:
        self._dying.discard(copy)
        self._wake_up()

    def _wake_up(self) -> None:
        """Let the copy that has taken over begin, as soon as it is the only one that waits.

        One that was killed and has not had its turn to die yet would still take the word from it, and both would wait
        for ever.
        """
        if self._asleep and not self._dying:
            self._asleep = False
            self._wake.write(Writing(b"\n"))

    # -- how a command ends ---------------------------------------------------------------------------------------

    def _ended(self, pid: int, code: int) -> None:
        """The one who ran the commands has ended."""
        if pid != self.pid:
            return
        if self._call is None:
            self.pid = 0
            return
        if self._kill is None:
            self._readers[2].drain()  # its last words, if they are still on their way
            self._finish(code, "restored" if self._take_over() else "lost")

    def _take_over(self) -> bool:
        copy, self._copy = self._kin(self._copy), 0
        if not copy:
            self.pid = 0
            return False
        self.serve(copy)
        self._asleep = True
        self._wake_up()
        return True

    def _stop(self) -> None:
        """The call is to end before its command does."""
        call = self._call
        if call is None or self._kill is not None:
            return
        target = Target(call.id, self.pid, int(call.began * procfs.TICKS), self._session)

        def find() -> list[procfs.Process]:
            others = self._children.others(self.pid) | self._spared()
            return killer.members(target, others, alone=self._children.alone(self))

        self._kill = TreeKill(self._reactor, find, self._grace, self._killed)

    def _spared(self) -> set[int]:
        """The copy, and what earlier commands have left running, with all that it starts."""
        alive = [p for p in procfs.processes() if p.pid != self.pid]
        spared = {p.pid for p in alive if (p.pid, p.start) in self._earlier} | {self._copy}
        while more := {p.pid for p in alive if p.parent in spared} - spared:
            spared |= more
        return spared

    def _killed(self) -> None:
        self._children.reap()
        self._kill = None
        if self._call is not None:
            code = TIMED_OUT if self._call.timed_out else CANCELLED
            self._finish(code, "restored" if self._take_over() else "lost")

    def _finish(self, code: int, state: str) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        for reader in self._readers[:2]:
            reader.drain()
        self._children.leave(self)
        out, err = self._out, self._err
        # What others print until the next command will be seen with that one, as at any terminal.
        self._out, self._err = Capture(self._keep), Capture(self._keep)
        detail: dict[str, Any] = {**(call.detail or {}), "state": state}
        self._answer(
            call,
            outcome(
                code,
                stdout=out.result(),
                stderr=err.result(),
                ran=call.ran,
                error=self.killed_for or None,
                detail=detail,
                timed_out=call.timed_out,
                cancelled=call.cancelled,
            ),
        )
