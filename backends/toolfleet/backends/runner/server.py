"""The runner's end of the channel: connections, frames, fencing.

Requests carry ``op`` and a request id ``rid``, which comes back in the reply::

    hello   epoch                        -> boot, epoch, epochs, protocol
    run     call, kind, args, timeout,   -> outcome (in parts when it is long)
            more (content follows)
    data    last, and bytes of content   (no reply of its own)
    cancel  call                         -> known
    query   call                         -> state
    ping    ttl                          -> processes
    renew                                -> boot: all processes end, and nothing is known any more of calls and epochs

A frame that makes no sense closes its connection and nothing else. Connections of an epoch below the highest one ever
claimed are *fenced*: all their requests but ``query`` are refused.
"""

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

from toolfleet.backends.runner import applets, frames, spool
from toolfleet.backends.runner.calls import Finished
from toolfleet.backends.runner.frames import Decoder, FrameError, Header
from toolfleet.backends.runner.operations import KINDS, Work, has_body
from toolfleet.backends.runner.reactor import READ, WRITE, Reactor, Timer
from toolfleet.backends.runner.seal import Seal
from toolfleet.backends.runner.supervisor import Supervisor

#: A connection whose peer leaves more than this unread is closed; its outcomes wait for a better one.
MAX_UNSENT = 256 * 1024 * 1024

#: Connections that may be open at once without having proved themselves, see `seal`; the oldest one has to go.
MAX_STRANGERS = 32

#: The longest duration that a request may name, in seconds.
MAX_SECONDS = 10_000_000.0

_CHUNK = 64 * 1024


@dataclass(slots=True)
class _Upload:
    """Content on its way in."""

    work: Work
    spool: int
    failure: OSError | None = None


class Connection:
    """One peer: its frames in, its replies out, the epoch it speaks for."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        handle: "Callable[[Connection, Header, bytes], None]",
        seal: Seal | None = None,
    ) -> None:
        self.epoch = 0
        self.uploads: dict[int, _Upload] = {}
        self._reactor = reactor
        self._sock: socket.socket | None = sock
        self._handle = handle
        self._seal = seal
        self._decoder = Decoder()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._blocked = False
        """The peer takes nothing for now, and we wait until it does."""
        reactor.watch(sock.fileno(), READ, self._ready)
        if seal is not None:
            self._put(seal.nonce)

    @property
    def proved(self) -> bool:
        """The peer knows the secret, or is already gone."""
        return self._sock is None or self._seal is None or self._seal.proved

    def send(self, header: Header) -> None:
        """Send a reply; dropped when the peer is gone."""
        self._put_frame(frames.encode(header))

    def answer(self, rid: int, finished: Finished) -> None:
        """Send an outcome; dropped when the peer is gone."""
        for frame in frames.answer(rid, finished.outcome, finished.body):
            self._put_frame(frame)

    def _put_frame(self, frame: bytes) -> None:
        self._put(frame if self._seal is None else self._seal.close(frame))

    def _put(self, data: bytes) -> None:
        if not self._unsent and self._sock is not None:
            data = self._send_now(self._sock, data)
        if data:
            self._unsent.append(memoryview(data))
            self._unsent_bytes += len(data)
            self._flush()

    def _send_now(self, sock: socket.socket, data: bytes) -> bytes:
        """Send what the peer takes, most often all; return the rest."""
        try:
            return data[sock.send(data) :]
        except BlockingIOError:
            return data
        except OSError:
            self.close()
            return b""

    def close(self) -> None:
        """Forget the peer; what it has started runs on."""
        if self._sock is None:
            return
        self._reactor.forget(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._unsent.clear()
        for upload in self.uploads.values():
            os.close(upload.spool)
        self.uploads.clear()

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if not events & READ or self._sock is None:
            return
        try:
            data = self._sock.recv(_CHUNK)
            if not data:
                self.close()
                return
            if self._seal is not None:
                data = self._seal.open(data)
            for header, body in self._decoder.feed(data):
                self._handle(self, header, body)
        except BlockingIOError:
            pass
        except (FrameError, OSError, KeyError, TypeError, ValueError, ArithmeticError):
            self.close()

    def _flush(self) -> None:
        if self._sock is None:
            self._unsent.clear()
            return
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent[0])
                self._unsent_bytes -= sent
                if sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._unsent_bytes > MAX_UNSENT:
            self.close()
            return
        if self._blocked != bool(self._unsent):
            self._blocked = bool(self._unsent)
            self._reactor.change(self._sock.fileno(), READ | WRITE if self._blocked else READ)


class Server:
    """Accepts connections and answers requests; ends the sandbox when nobody has pinged for long enough."""

    def __init__(
        self,
        reactor: Reactor,
        supervisor: Supervisor,
        listener: socket.socket,
        spool: int,
        disk: int,
        secret: bytes | None = None,
    ) -> None:
        self._reactor = reactor
        self._supervisor = supervisor
        self._listener = listener
        self._spool = spool
        self._disk = disk
        self._secret = secret
        self._strangers: list[Connection] = []
        self._connections: WeakSet[Connection] = WeakSet()
        self._boot = os.urandom(8).hex()
        self._epochs: list[int] = []
        self._orphaned: Timer | None = None
        self._handlers: dict[str, Callable[[Connection, Header, bytes], None]] = {
            "hello": self._hello,
            "run": self._run,
            "data": self._data,
            "cancel": self._cancel,
            "query": self._query,
            "ping": self._ping,
            "renew": self._renew,
        }
        listener.setblocking(False)
        reactor.watch(listener.fileno(), READ, self._accept)

    def expire_in(self, ttl: float) -> None:
        """End the sandbox ``ttl`` seconds from now unless this is called again."""
        if self._orphaned is not None:
            self._orphaned.cancel()
        self._orphaned = self._reactor.after(ttl, self._expire)

    def _expire(self) -> None:
        self._supervisor.kill_all()
        os._exit(0)

    def _accept(self, _: int) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            seal = None if self._secret is None else Seal(self._secret, "runner")
            connection = Connection(self._reactor, sock, self._handle, seal)
            self._connections.add(connection)
            if seal is not None:
                self._admit(connection)

    def _admit(self, stranger: Connection) -> None:
        """Let a connection that a command might have made wait in a small crowd until it has proved itself."""
        self._strangers = [other for other in self._strangers if not other.proved]
        self._strangers.append(stranger)
        if len(self._strangers) > MAX_STRANGERS:
            self._strangers.pop(0).close()

    def _handle(self, connection: Connection, header: Header, body: bytes) -> None:
        op, rid = header["op"], header["rid"]
        if not isinstance(rid, int):
            raise FrameError("a request without a number")
        handler = self._handlers[op]
        highest = self._epochs[-1] if self._epochs else 0
        epoch = int(header["epoch"]) if op == "hello" else connection.epoch
        # A newcomer may greet before it claims, and anyone may ask what became of a call.
        harmless = op == "query" or (op == "hello" and epoch == 0)
        if epoch < highest and not harmless:
            connection.send({"rid": rid, "fenced": highest})
            return
        handler(connection, header, body)

    def _hello(self, connection: Connection, header: Header, _: bytes) -> None:
        connection.epoch = int(header["epoch"])
        if not self._epochs or connection.epoch > self._epochs[-1]:
            self._epochs = [*self._epochs[-63:], connection.epoch]
        about: dict[str, Any] = {"boot": self._boot, "epochs": self._epochs, "protocol": frames.PROTOCOL}
        connection.send({"rid": header["rid"], **about})

    def _cancel(self, connection: Connection, header: Header, _: bytes) -> None:
        connection.send({"rid": header["rid"], "known": self._supervisor.cancel(str(header["call"]))})

    def _query(self, connection: Connection, header: Header, _: bytes) -> None:
        connection.send({"rid": header["rid"], "state": self._supervisor.state(str(header["call"]))})

    def _ping(self, connection: Connection, header: Header, _: bytes) -> None:
        self.expire_in(_seconds(header["ttl"]))
        connection.send({"rid": header["rid"], "processes": self._supervisor.count()})

    def _renew(self, connection: Connection, header: Header, _: bytes) -> None:
        """Begin anew. Whoever knew the runner before is shut out: by its connection now, by the boot id for ever."""
        self._supervisor.renew()
        for other in list(self._connections):
            if other is not connection:
                other.close()
        self._boot, self._epochs, connection.epoch = os.urandom(8).hex(), [], 0
        connection.send({"rid": header["rid"], "boot": self._boot})

    # -- run ------------------------------------------------------------------------------------------------------

    def _run(self, connection: Connection, header: Header, body: bytes) -> None:
        call_id, kind, rid = str(header["call"]), header["kind"], header["rid"]
        if kind not in KINDS or not isinstance(header["args"], dict):
            raise FrameError(f"an operation of an unknown kind: {kind!r}")
        if rid in connection.uploads:
            raise FrameError("a request number that is in use")
        work = Work(call_id, kind, header["args"], _seconds(header["timeout"]))
        if not has_body(kind):
            self._start(connection, rid, work, None)
            return
        try:
            content, failure = spool.unnamed(self._spool), None
        except OSError as error:
            content, failure = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), error
        connection.uploads[rid] = _Upload(work._replace(spool=content), content, failure)
        self._take(connection, rid, body, last=not header.get("more"))

    def _data(self, connection: Connection, header: Header, body: bytes) -> None:
        self._take(connection, header["rid"], body, last=bool(header["last"]))

    def _take(self, connection: Connection, rid: int, body: bytes, *, last: bool) -> None:
        upload = connection.uploads[rid]
        if upload.failure is None:
            try:
                applets.os_write_all(upload.spool, body)
            except OSError as error:
                upload.failure = error
                os.ftruncate(upload.spool, 0)
        if not last:
            return
        del connection.uploads[rid]
        try:
            self._start(connection, rid, upload.work, upload.failure)
        finally:
            os.close(upload.spool)

    def _start(self, connection: Connection, rid: int, work: Work, failure: OSError | None) -> None:
        waiter = partial(self._reply, connection, rid)
        if self._supervisor.attach(work.call_id, waiter):
            return
        if failure is not None:
            path = str(work.args.get("path", work.args.get("dest", ""))).encode(errors="replace")
            self._supervisor.refuse(work.call_id, waiter, applets.sentence(failure, path, self._disk))
            return
        self._supervisor.run(work, waiter)

    def _reply(self, connection: Connection, rid: int, finished: Finished) -> None:
        connection.answer(rid, finished)


def _seconds(value: Any) -> float:
    """``value`` as a duration; NaN and infinity would upset the order of the timers."""
    seconds = float(value)
    if not 0 <= seconds <= MAX_SECONDS:
        raise FrameError(f"a duration of {value} seconds")
    return seconds
