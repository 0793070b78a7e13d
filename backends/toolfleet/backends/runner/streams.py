"""Streams of processes that outlive their calls: read at a bearable pace, written to when they take something."""

import os
from collections import deque
from collections.abc import Callable

from toolfleet.backends.runner.reactor import READ, WRITE, Reactor, Timer

_CHUNK = 64 * 1024
#: After so many bytes without a break a stream waits for so many seconds: nobody reads 100 MB a second of a log, and
#: a process that floods it must not keep the runner busy.
_BURST, _BREAK = 1024 * 1024, 0.01
#: Reads that `Reader.drain` does at most: somebody may be filling the stream as fast as it is emptied.
_DRAIN = 8


class Reader:
    """Feeds what a descriptor gives to somebody, until its end."""

    def __init__(self, reactor: Reactor, fd: int, feed: Callable[[bytes], None]) -> None:
        self._reactor = reactor
        self._fd = fd
        self._feed = feed
        self._burst = 0
        self._break: Timer | None = None
        self.open = True
        """There may be more to come."""
        reactor.watch(fd, READ, self._ready)

    def drain(self) -> None:
        """Take what is there now."""
        for _ in range(_DRAIN):
            if not self.open or not self._pull():
                return

    def close(self) -> None:
        """Take nothing any more; whoever writes gets a SIGPIPE."""
        if not self.open:
            return
        self.open = False
        if self._break is None:
            self._reactor.forget(self._fd)
        else:
            self._break.cancel()
        os.close(self._fd)

    def _ready(self, _: int) -> None:
        self._pull()
        if self.open and self._burst >= _BURST:
            self._reactor.forget(self._fd)
            self._break = self._reactor.after(_BREAK, self._resume)

    def _resume(self) -> None:
        self._break = None
        self._burst = 0
        self._reactor.watch(self._fd, READ, self._ready)

    def _pull(self) -> bool:
        """Take what one read gives; False when there is nothing more for now, or the stream has ended."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            self._burst = 0
            return False
        except OSError:  # a terminal that nobody holds any more says EIO
            data = b""
        if not data:
            self.close()
            return False
        self._burst += len(data)
        self._feed(data)
        return True


class Writing:
    """One write on its way."""

    def __init__(self, data: bytes, done: "Callable[[Writing], None] | None" = None) -> None:
        self.data = data
        self.written = 0
        """Bytes that the stream has taken."""
        self._done = done

    @property
    def complete(self) -> bool:
        """Whether all of it has been taken."""
        return self.written == len(self.data)

    def finish(self) -> None:
        """Tell whoever waits that no more of it will be taken."""
        if self._done is not None:
            self._done(self)


class Writer:
    """Writes to a descriptor in the order of the requests, without ever waiting for the one who reads."""

    def __init__(self, reactor: Reactor, fd: int) -> None:
        self._reactor = reactor
        self._fd = fd
        self._waiting: deque[Writing] = deque()
        self._watched = False
        self._ends = False
        self.open = True

    def write(self, writing: Writing) -> None:
        """Write after what waits already; it is finished, at once if possible, when the stream has taken all."""
        self._waiting.append(writing)
        self._flush()

    def give_up(self, writing: Writing) -> None:
        """Drop what is left of it, and finish it."""
        if writing in self._waiting:
            self._waiting.remove(writing)
            writing.finish()
            self._flush()

    def end(self) -> None:
        """Close the stream behind what waits."""
        self._ends = True
        self._flush()

    def close(self) -> None:
        """Close the stream now; everybody who waits is told how far they came."""
        if not self.open:
            return
        self.open = False
        if self._watched:
            self._reactor.forget(self._fd)
        os.close(self._fd)
        while self._waiting:
            writing = self._waiting.popleft()
            writing.finish()

    def _flush(self, _: int = WRITE) -> None:
        if not self.open:
            return
        try:
            while self._waiting:
                writing = self._waiting[0]
                writing.written += os.write(self._fd, memoryview(writing.data)[writing.written :])
                if writing.written == len(writing.data):
                    self._waiting.popleft()
                    writing.finish()
        except BlockingIOError:
            pass
        except OSError:  # nobody reads it any more
            self.close()
            return
        if not self.open:  # by somebody's ``done``
            return
        if self._ends and not self._waiting:
            self.close()
        elif self._watched != bool(self._waiting):
            self._watched = bool(self._waiting)
            if self._watched:
                self._reactor.watch(self._fd, WRITE, self._flush)
            else:
                self._reactor.forget(self._fd)
