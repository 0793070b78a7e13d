"""The background processes of a sandbox: the operations `spawn` and `process`."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from toolfleet.backends.runner import procfs
from toolfleet.backends.runner.arguments import number, text
from toolfleet.backends.runner.background import PREFIX, SHOWN, Background
from toolfleet.backends.runner.calls import Call, Finished, outcome
from toolfleet.backends.runner.children import Children
from toolfleet.backends.runner.operations import END_OF_INPUT, Starter, Work
from toolfleet.backends.runner.reactor import Reactor
from toolfleet.backends.runner.spawn import CannotStart
from toolfleet.backends.runner.streams import Writing

#: Background processes that are tracked at once, finished ones included; and for how many seconds those are.
TRACKED, KEEP_FINISHED = 64, 1800.0
#: Digits of an id that suffice, if they are unique.
SHORTEST = 4
#: Bytes of the latest output that a list shows for each process.
PREVIEW = 200
#: Bytes of a log that one look returns at most.
MOST = 200_000
#: The longest input of one `write`, in bytes.
LONGEST_INPUT = 1024 * 1024
#: `settle` looks so often, in seconds; after so many looks without a change a terminal has settled.
_LOOK, _QUIET = 0.02, 6

Answer = Callable[[Call, Finished], None]


class NoSuchProcess(Exception):
    """No background process has this id; the message is a sentence."""


class Processes:
    """The table of background processes, and what can be done with them. Every operation answers its call once."""

    def __init__(self, reactor: Reactor, children: Children, starter: Starter, answer: Answer) -> None:
        self._reactor = reactor
        self._children = children
        self._starter = starter
        self._answer = answer
        self._tracked: OrderedDict[str, Background] = OrderedDict()
        self._actions: dict[str, Callable[[Call, Background, Mapping[str, Any]], None]] = {
            "poll": self._poll,
            "log": self._log,
            "wait": self._wait,
            "settle": self._settle,
            "kill": self._kill,
            "write": self._write,
        }

    @property
    def idle(self) -> int:
        """Processes that only wait for somebody to type: shells without a command."""
        return sum(1 for p in self._tracked.values() if p.running and p.about["idle"] and p.members() == [p.pid])

    def forget(self) -> None:
        """Let go of all, logs included; they have ended."""
        for process in self._tracked.values():
            process.discard()
        self._tracked.clear()

    def spawn(self, call: Call, work: Work) -> None:
        """Start a background process; its id is derived from the call's.

        Raises:
            CannotStart: it never ran.
        """
        self._make_room()
        began = procfs.now()
        child, cwd, window = self._starter.attended(work)
        about = {
            "command": text(work.args, "command")[:SHOWN],
            "cwd": cwd.decode("utf-8", "backslashreplace"),
            "pty": window is not None,
            "idle": work.args.get("idle") is True,
        }
        if window is not None:
            about |= {"rows": window[0], "columns": window[1]}
        process = Background(self._reactor, self._children, work.call_id, about, began, child)
        self._tracked[process.id] = process
        self._answer(call, outcome(0, ran=call.ran, detail=process.describe()))

    def act(self, call: Call, work: Work) -> None:
        """Do what is asked with one process, or list them all.

        Raises:
            CannotStart: the arguments are wrong.
        """
        self._prune()
        action = text(work.args, "action")
        if action == "list":
            listed = [{**p.describe(), "preview": _lossy(p.log.tail(PREVIEW))} for p in self._tracked.values()]
            self._answer(call, outcome(0, ran=call.ran, detail={"processes": listed}))
            return
        if action not in self._actions:
            raise CannotStart(f"Unknown process action: {action!r}; there are list, {', '.join(self._actions)}")
        try:
            process = self._find(text(work.args, "process"))
        except NoSuchProcess as error:
            self._answer(call, outcome(1, ran=call.ran, error=str(error), detail={"status": "not_found"}))
            return
        self._actions[action](call, process, work.args)

    def _find(self, wanted: str) -> Background:
        """A process by its id, or by as much of it as is unique."""
        digits = wanted.removeprefix(PREFIX)
        fitting = [p for p in self._tracked.values() if p.id.startswith(PREFIX + digits)]
        if len(fitting) == 1 and len(digits) >= SHORTEST:
            return fitting[0]
        if fitting and len(digits) >= SHORTEST:
            raise NoSuchProcess(f"{wanted!r} stands for {', '.join(p.id for p in fitting)}: use more digits")
        raise NoSuchProcess(f"No process with ID {wanted}")

    # -- actions --------------------------------------------------------------------------------------------------

    def _poll(self, call: Call, process: Background, args: Mapping[str, Any]) -> None:
        self._reply(call, process, args, {})

    def _log(self, call: Call, process: Background, args: Mapping[str, Any]) -> None:
        about = process.describe()
        resume = args.get("resume") is True
        offset = number(args, "offset", process.seen if resume else process.log.start) or 0
        first, data = process.log.read(max(0, offset), _size(args, "limit", MOST))
        behind = first + len(data)
        if resume:
            process.seen = behind
        moments = [moment for moment in process.moments if first <= moment[0] < behind]
        about |= {"offset": first, "next_offset": behind, "moments": moments}
        self._answer(call, outcome(0, stdout=(data, len(data), 0), ran=call.ran, detail=about))

    def _wait(self, call: Call, process: Background, args: Mapping[str, Any]) -> None:
        seconds = _seconds(args)

        def finish() -> None:
            call.on_stop = None
            process.forget_listener(finish)
            timer.cancel()
            self._reply(call, process, args, {})

        timer = self._reactor.after(seconds, finish)
        call.on_stop = finish
        if process.running:
            process.on_end(finish)
        else:
            finish()

    def _settle(self, call: Call, process: Background, args: Mapping[str, Any]) -> None:
        """Wait until a shell on a terminal has done what it was told: it rests, and has printed nothing for a while."""
        until = procfs.now() + _seconds(args)
        quiet, printed = 0, -1

        def look() -> None:
            nonlocal quiet, printed
            if call.on_stop is None:  # stopped while the next look was already due
                return
            quiet = quiet + 1 if process.at_rest and process.log.end == printed else 0
            printed = process.log.end
            settled = quiet >= _QUIET or not process.running
            if settled or call.timed_out or call.cancelled or procfs.now() >= until:
                call.on_stop = None
                self._reply(call, process, args, {"settled": settled})
            else:
                self._reactor.after(_LOOK, look)

        call.on_stop = look
        self._reactor.after(_LOOK, look)

    def _kill(self, call: Call, process: Background, args: Mapping[str, Any]) -> None:
        over = not process.running

        def done(survivors: list[int]) -> None:
            self._reply(call, process, args, {"survivors": survivors, "already_exited": over})

        # Nothing stops it: it is over in a few seconds, and half a kill would be of no use to anybody.
        process.kill(done)

    def _write(self, call: Call, process: Background, args: Mapping[str, Any]) -> None:
        data = text(args, "data").encode("utf-8", "surrogateescape")
        if len(data) > LONGEST_INPUT:
            raise CannotStart(f"The input is {len(data)} bytes long; at most {LONGEST_INPUT} go in one write")
        if not process.running or not process.input.open:
            self._reply(call, process, args, {"written": 0})
            return
        eof = args.get("eof") is True
        if eof and process.about["pty"]:
            data += END_OF_INPUT

        def done(writing: Writing) -> None:
            call.on_stop = None
            if eof and not process.about["pty"]:
                process.input.end()
            self._reply(call, process, args, {"written": writing.written, "complete": writing.complete})

        writing = Writing(data, done)
        # Set beforehand: a stream that takes everything calls back at once.
        call.on_stop = lambda: process.input.give_up(writing)
        process.input.write(writing)

    def _reply(self, call: Call, process: Background, args: Mapping[str, Any], more: dict[str, Any]) -> None:
        about = process.describe() | more
        data = process.log.tail(_size(args, "tail", 1000))
        stdout = (data, len(data), 0)
        self._answer(call, outcome(0, stdout=stdout, ran=call.ran, detail=about, cancelled=call.cancelled))

    # -- how many -------------------------------------------------------------------------------------------------

    def _prune(self) -> None:
        now = procfs.now()
        for process in [p for p in self._tracked.values() if p.ended_at and now - p.ended_at > KEEP_FINISHED]:
            self._drop(process)

    def _make_room(self) -> None:
        self._prune()
        if len(self._tracked) < TRACKED:
            return
        finished = [p for p in self._tracked.values() if not p.running]
        if not finished:
            raise CannotStart(f"{TRACKED} background processes run already: kill one of them first")
        self._drop(min(finished, key=lambda p: p.ended_at))

    def _drop(self, process: Background) -> None:
        del self._tracked[process.id]
        process.discard()


def _size(args: Mapping[str, Any], name: str, default: int) -> int:
    wanted = number(args, name, default)
    return min(max(default if wanted is None else wanted, 0), MOST)


def _seconds(args: Mapping[str, Any]) -> float:
    seconds = args.get("seconds", 0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e7:
        raise CannotStart("The argument 'seconds' must be a number of seconds")
    return float(seconds)


def _lossy(data: bytes) -> str:
    return data.decode("utf-8", "replace")
