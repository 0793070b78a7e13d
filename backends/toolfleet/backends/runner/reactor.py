"""The runner's event loop: descriptors, timers and ended children, on one thread."""

import contextlib
import heapq
import itertools
import os
import select
import signal
import time
from collections.abc import Callable

from toolfleet.backends.runner import kernel

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

_FEW_TIMERS = 256
#: Descriptors that one look at the kernel may report.
_BATCH = 64
_PLAIN = frozenset((READ, WRITE, READ | WRITE))


class Timer:
    """A callback due at a moment; cancelled by `cancel`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call back."""
        self.callback = None


class Reactor:
    """Waits for whatever comes first and calls it back; sleeps in the kernel while nothing happens.

    `selectors` would do, at five times the cost for each event.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._crowded = _FEW_TIMERS

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` whenever ``fd`` is ready; an error or the end of a stream counts as any of them."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def change(self, fd: int, events: int) -> None:
        """Wait for other ``events`` of a watched ``fd``."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``; must come before it is closed."""
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once, ``seconds`` from now."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        if len(self._timers) > self._crowded:
            # Most deadlines are cancelled long before they are due; they must not pile up until then.
            self._timers[:] = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._crowded = 2 * len(self._timers) + _FEW_TIMERS
        return timer

    def on_child(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever children may have ended.

        Every other signal is to have no effect: as PID 1 the runner is addressed by ``kill -INT 1`` and the like, and
        must outlive them. The kernel keeps from PID 1 what it does not handle; elsewhere they are ignored.
        """
        unhandled = signal.SIG_DFL if os.getpid() == 1 else signal.SIG_IGN
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # these become errors of a write
            # SIGKILL and SIGSTOP cannot be ignored; the kernel keeps them from a PID 1 anyway.
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, unhandled)
        # Read from a descriptor, the signal interrupts nothing. Children unblock it, see `spawn`.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        ended = kernel.signalfd(signal.SIGCHLD)

        def wake(_: int) -> None:
            os.read(ended, 128)  # one signal stands for all children that have ended
            callback()

        self.watch(ended, READ, wake)

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for fd, events in self._epoll.poll(self._fire(), _BATCH):
                # A callback earlier in this batch may have dropped the descriptor.
                if (callback := self._callbacks.get(fd)) is not None:
                    callback(events if events in _PLAIN else READ | WRITE)

    def _fire(self) -> float | None:
        """Call back what is due, and return the seconds until the next is; None when there is nothing to wait for."""
        timers = self._timers
        while timers:
            due, _, timer = timers[0]
            if timer.callback is not None and (left := due - time.monotonic()) > 0:
                return left
            heapq.heappop(timers)
            if timer.callback is not None:
                timer.callback()
        return None
