"""The runner's event loop: descriptors, timers and ended children, on one thread."""

import contextlib
import heapq
import os
import select
import signal
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

_FEW_TIMERS = 256
_PLAIN = frozenset((READ, WRITE, READ | WRITE))


class Timer:
    """A callback due at a moment; cancelled by `cancel`."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call back."""
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return self.when < other.when


class Reactor:
    """Waits for whatever comes first and calls it back; sleeps in the kernel while nothing happens.

    `selectors` would do, at five times the cost for each event.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._crowded = _FEW_TIMERS
        self._wake_read = -1

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
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        if len(self._timers) > self._crowded:
            # Most deadlines are cancelled long before they are due; they must not pile up until then.
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapq.heapify(self._timers)
            self._crowded = 2 * len(self._timers) + _FEW_TIMERS
        return timer

    def on_child(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever children may have ended.

        Every other signal is to have no effect: as PID 1 the runner is addressed by ``kill -INT 1`` and the like, and
        must outlive them. The kernel keeps from PID 1 what it does not handle; elsewhere they are ignored.
        """
        self._wake_read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        unhandled = signal.SIG_DFL if os.getpid() == 1 else signal.SIG_IGN
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # these become errors of a write
            # SIGKILL and SIGSTOP cannot be ignored; the kernel keeps them from a PID 1 anyway.
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, unhandled)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

        def wake(_: int) -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            callback()

        self.watch(self._wake_read, READ, wake)

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for fd, events in self._epoll.poll(self._due_in()):
                # A callback earlier in this batch may have dropped the descriptor.
                if (callback := self._callbacks.get(fd)) is not None:
                    callback(events if events in _PLAIN else READ | WRITE)
            if self._timers:
                self._fire()

    def _due_in(self) -> float | None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        left = self._timers[0].when - time.monotonic()
        return left if left > 0.0 else 0.0

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
