"""Carries bytes between its standard streams and a runner's socket: ``... relay import main; main()" SOCKET``.

One relay is one connection. It runs over whatever an engine offers to start a process with (an exec, an SSH session),
ends when either side does, and knows nothing: what passes through it is sealed (see `seal`).
"""

import os
import select
import socket
import sys

from toolfleet.backends.runner.address import unix_address

_CHUNK = 256 * 1024


def main() -> None:
    """Connect and carry; says on standard error why nothing can be carried, and ends with 1."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(unix_address(sys.argv[1]))
    except OSError as error:
        sys.exit(f"no runner listens at {sys.argv[1]}: {error.strerror}")
    try:
        _carry(sock)
    except (BrokenPipeError, ConnectionResetError):
        return


def _carry(sock: socket.socket) -> None:
    # Blocking writes cannot lock up: both ends read at all times, whatever they have to write.
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(sock, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            data = os.read(fd, _CHUNK)
            if not data:
                return
            if fd == 0:
                sock.sendall(data)
                continue
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
