"""Start-up of the runner: ``python -I -S -c "from toolfleet.backends.runner.main import main; main()" LISTEN BOOT``.

LISTEN and BOOT are inherited descriptors: a listening unix socket, and a socket on which one boot message arrives
(see `config`). What goes wrong before the runner serves is printed to standard error, for the host to show.
"""

import contextlib
import gc
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from toolfleet.backends.runner import config as boot
from toolfleet.backends.runner import kernel, preload
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.enter import enter
from toolfleet.backends.runner.memory import OomCounter
from toolfleet.backends.runner.reactor import Reactor
from toolfleet.backends.runner.server import Server
from toolfleet.backends.runner.supervisor import Supervisor

#: New objects that may wait for the next collection; those of a call, which hold its output, are freed without one.
_GARBAGE = 5000


@dataclass(frozen=True, slots=True)
class Outside:
    """What a runner holds of the world."""

    listener: socket.socket
    spool: int
    """A directory for content that is not yet complete."""
    oom: int | None = None
    """See `memory.OomCounter`."""
    secret: bytes | None = None
    """Seals the channel where the listener can be reached by commands, see `seal`."""


def main() -> None:
    """Enter the sandbox and serve until its end."""
    preload.preload()
    listener = socket.socket(fileno=int(sys.argv[1]))
    with socket.socket(fileno=int(sys.argv[2])) as channel:
        config, fds = boot.receive(channel)
    outside = Outside(listener, enter(config, fds), fds.get("oom"))
    for name in ("lower", "disk", "origin"):
        if name in fds:
            os.close(fds[name])
    serve(config, outside)


def serve(config: Config, outside: Outside, ready: Callable[[], object] = bool) -> None:
    """Serve for ever; ``ready`` is called when nothing can go wrong any more."""
    kernel.become_subreaper()
    kernel.set_name("toolfleet")
    reactor = Reactor()
    oom = None if outside.oom is None else OomCounter(outside.oom)
    supervisor = Supervisor(reactor, config, oom, outside.spool)
    # After what opens files of our own in /proc, and before anybody is there to look at us.
    kernel.hide_from_ptrace()
    server = Server(reactor, supervisor, outside.listener, outside.spool, config.disk, outside.secret)
    server.expire_in(config.ttl)
    ready()
    _go_quiet()
    _keep_descriptors()
    # What is there by now stays for good: collections need not look at it again, and may come less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    reactor.run()


def _keep_descriptors() -> None:
    """Let no command inherit a descriptor, wherever it has come from."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            os.set_inheritable(int(name), False)


def _go_quiet() -> None:
    """Let go of the host's standard streams; from now on the channel is the only way out."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
