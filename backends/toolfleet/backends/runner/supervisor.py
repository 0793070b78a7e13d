"""Calls from start to outcome, each at most once, whatever they are about."""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from functools import partial

from toolfleet.backends.runner import calls, killer, procfs
from toolfleet.backends.runner.calls import Call, Finished, Outcomes, Waiter, outcome
from toolfleet.backends.runner.children import Children
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.files.staging import Stages
from toolfleet.backends.runner.memory import Monitor, OomCounter, out_of_memory
from toolfleet.backends.runner.operations import Starter, Work
from toolfleet.backends.runner.processes import Processes
from toolfleet.backends.runner.procfs import Process
from toolfleet.backends.runner.reactor import READ, Reactor
from toolfleet.backends.runner.shells import Shells
from toolfleet.backends.runner.spawn import CannotStart, Child, Spawner

#: After its direct child has ended, a call waits this long for those who still hold its streams.
DRAIN = 0.2
#: What a process left behind by a call may still print into the void; more of it gets a SIGPIPE.
VOID = 64 * 1024 * 1024

#: How often a runner that is not PID 1 goes through all processes to end them; those that hide by forking are few.
_ROUNDS = 100
#: What a pipe holds.
_CHUNK = 64 * 1024
#: Streams of file operations carry data and a report, which must not be cut: both are bounded by the applets.
_UNCUT = 256 * 1024 * 1024


class Supervisor:
    """Starts, watches, ends and remembers calls."""

    def __init__(self, reactor: Reactor, config: Config, oom: OomCounter | None, spool: int) -> None:
        self._reactor = reactor
        self._config = config
        self._stages = Stages(reactor, spool)
        self._starter = Starter(config, Spawner(config), self._stages)
        self._children = Children(reactor)
        self._running: dict[str, Call] = {}
        self._outcomes = Outcomes()
        self._oom = oom
        most = config.pids if config.count else None
        self._monitor = Monitor(reactor, config.memory, most, self._killed_by_monitor) if config.monitor else None
        self._processes = Processes(reactor, self._children, self._starter, self._complete)
        self._shells = Shells(reactor, self._children, self._starter, config, self._complete)
        self._attended: dict[str, Callable[[Call, Work], None]] = {
            "spawn": self._processes.spawn,
            "process": self._processes.act,
            "shell": self._shells.run,
        }

    # -- what the server asks for ---------------------------------------------------------------------------------

    def state(self, call_id: str) -> str:
        """``running``, ``finished`` or ``unknown``."""
        if call_id in self._running:
            return "running"
        return "unknown" if self._outcomes.find(call_id) is None else "finished"

    def attach(self, call_id: str, waiter: Waiter) -> bool:
        """Hand the outcome of a call to ``waiter``, now or when it ends; False for a call never seen."""
        if (call := self._running.get(call_id)) is not None:
            call.waiters.append(waiter)
            return True
        if (finished := self._outcomes.find(call_id)) is not None:
            waiter(finished)
            return True
        return False

    def run(self, work: Work, waiter: Waiter) -> None:
        """Start a call that was never seen before."""
        call = Call(work.call_id, work.kind, self._config.keep if work.kind == "exec" else _UNCUT, waiter)
        if self._oom is not None:
            call.oom_mark = self._oom.mark()
        self._running[work.call_id] = call
        call.deadline = self._reactor.after(work.timeout, partial(self._expire, call))
        try:
            if (attend := self._attended.get(work.kind)) is not None:
                attend(call, work)
            else:
                self._watch(call, self._starter.start(work))
        except CannotStart as error:
            self._complete(call, outcome(calls.NOT_STARTED, error=str(error)))
            return
        if self._monitor is not None:
            self._monitor.start()

    def refuse(self, call_id: str, waiter: Waiter, error: str) -> None:
        """End a call that cannot be started."""
        self._answer(Call(call_id, "", 0, waiter), outcome(calls.NOT_STARTED, error=error))

    def cancel(self, call_id: str) -> bool:
        """Kill a running call; False when it does not run, or its command has ended and only its streams are open."""
        call = self._running.get(call_id)
        if call is None or call.status is not None:
            return False
        if call.kill is None:
            call.cancelled = True
            self._stop(call)
        return True

    def count(self) -> int:
        """How many processes there are in the sandbox, but for the runner and shells that wait for something to do."""
        return max(0, sum(1 for _ in procfs.begun_inside()) - self._shells.idle - self._processes.idle)

    # -- streams --------------------------------------------------------------------------------------------------

    def _watch(self, call: Call, child: Child) -> None:
        pid, stdout, stderr = child
        call.pid = pid
        self._children.watch(pid, call, partial(self._leader_ended, call))
        if call.kind == "exec":
            self._children.join(call)
        call.pipes = {stdout: call.out} if stderr is None else {stdout: call.out, stderr: call.err}
        for fd in call.pipes:
            self._reactor.watch(fd, READ, partial(self._readable, call, fd))

    def _readable(self, call: Call, fd: int, _: int) -> None:
        self._pull(call, fd)
        if not call.pipes and call.status is not None and call.kill is None:
            self._finish(call)

    def _pull(self, call: Call, fd: int) -> bool:
        """Take what one read gives; False when there is nothing more for now, or the stream has ended and is closed."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal that nobody holds any more says EIO
            data = b""
        if data:
            call.pipes[fd].feed(data)
            return True
        self._reactor.forget(fd)
        os.close(fd)
        del call.pipes[fd]
        return False

    def _empty(self, call: Call) -> None:
        """Take what is in the pipes now; bounded, since somebody may be filling them as fast as they are emptied."""
        for fd in list(call.pipes):
            for _ in range(8):
                if not self._pull(call, fd):
                    break

    def _void(self, fd: int) -> None:
        """Go on emptying a stream whose call has ended, for the sake of a process that was left in the background."""
        left = VOID

        def discard(_: int) -> None:
            nonlocal left
            count = 0
            with contextlib.suppress(OSError):
                count = len(os.read(fd, _CHUNK))
                left -= count
            if not count or left < 0:
                self._reactor.forget(fd)
                os.close(fd)

        self._reactor.forget(fd)
        self._reactor.watch(fd, READ, discard)

    # -- ends -----------------------------------------------------------------------------------------------------

    def _leader_ended(self, call: Call, code: int) -> None:
        call.status = code
        if call.deadline is not None and call.kill is None:
            call.deadline.cancel()
        self._empty(call)
        if call.kill is not None:
            return
        if call.pipes:
            call.drain = self._reactor.after(DRAIN, lambda: self._finish(call))
        else:
            self._finish(call)

    def _expire(self, call: Call) -> None:
        if call.id in self._running and call.kill is None:
            call.timed_out = True
            self._stop(call)

    def _stop(self, call: Call) -> None:
        if call.kind in self._attended:
            if call.on_stop is not None:
                call.on_stop()
            return

        def find() -> list[Process]:
            return killer.members(call.target, self._children.others(call.pid), alone=self._children.alone(call))

        def done() -> None:
            self._children.reap()
            self._finish(call)

        call.kill = killer.TreeKill(self._reactor, find, self._config.grace, done)

    def _finish(self, call: Call) -> None:
        if call.id not in self._running:
            return
        if call.drain is not None:
            call.drain.cancel()
        if call.pipes:
            self._empty(call)
            for fd in call.pipes:
                self._void(fd)
            call.pipes.clear()
        self._complete(call, self._conclude(call))

    def _complete(self, call: Call, finished: Finished) -> None:
        if self._running.pop(call.id, None) is None:
            return
        if call.deadline is not None:
            call.deadline.cancel()
        self._children.leave(call)
        self._answer(call, finished)

    def _conclude(self, call: Call) -> Finished:
        code = calls.KILLED if call.status is None else call.status
        if call.timed_out:
            code = calls.TIMED_OUT
        elif call.cancelled:
            code = calls.CANCELLED
        stdout, stderr = call.out.result(), call.err.result()
        if call.kind == "exec":
            error = self._limit_error(call, code)
            detail = None
        else:
            detail, error = _report(stderr[0], call)
            stderr = (b"", 0, 0)
            code = code if error is None or code else 1
        return outcome(
            code,
            stdout=stdout,
            stderr=stderr,
            ran=call.ran,
            error=error,
            detail=detail,
            timed_out=call.timed_out,
            cancelled=call.cancelled,
        )

    def _limit_error(self, call: Call, code: int) -> str | None:
        if code != calls.KILLED:
            return None
        if call.killed_for or self._oom is None or not self._oom.killed_since(call.oom_mark):
            return call.killed_for or None
        return out_of_memory(self._config.memory)

    def _killed_by_monitor(self, process: Process, why: str) -> None:
        owner = self._children.owner(process.session) or self._running.get(procfs.mark_of(process.pid) or "")
        if owner is not None:
            owner.killed_for = why

    def _answer(self, call: Call, finished: Finished) -> None:
        self._outcomes.add(call.id, finished)
        for waiter in call.waiters:
            waiter(finished)

    def renew(self) -> None:
        """End every process, and forget every call and what calls have left here: logs, shells, content on its way."""
        self.kill_all()
        self._children.reap()
        for call in list(self._running.values()):
            self._finish(call)
        self._processes.forget()
        self._shells.forget()
        self._stages.forget()
        self._outcomes = Outcomes()

    def kill_all(self) -> None:
        """End every process of the sandbox at once."""
        if os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            return
        for _ in range(_ROUNDS):
            self._children.reap()
            alive = list(procfs.processes())
            for process in alive:  # stopped first, lest one forks while another is killed
                killer.signal_process(process, signal.SIGSTOP)
            for process in alive:
                killer.signal_process(process, signal.SIGKILL)
            if not alive:
                return


def _report(text: bytes, call: Call) -> tuple[dict[str, object], str | None]:
    """The detail and the error that an applet has printed."""
    if call.timed_out:
        return {}, "The file operation did not end in time"
    if call.cancelled:
        return {}, "The file operation was cancelled"
    try:
        detail = json.loads(text)
    except ValueError:
        return {}, f"The file operation broke off with exit code {call.status}"
    return detail, detail.pop("error", None)
