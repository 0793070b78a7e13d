"""Start-up of a runner that an engine has confined already: it takes root, limits and privileges as it finds them.

``python -I -S -c "from toolfleet.backends.runner.standalone import main; main()" MODE ADDRESS`` where MODE is

* ``listen``: read the boot line (see `config`) from standard input and serve at the socket ADDRESS, a path or
  ``@name``, sealed with the secret of that line; stays in the foreground, as PID 1 or not.
* ``daemon``: the same in the background, for engines that wait for the end of what they start.
* ``fetch``: connect to the unix socket ADDRESS and receive the boot message there, together with a listening socket
  that has no path in the sandbox. Needs an engine that shares the host's kernel.

``ready`` and a newline on standard output say that connections are accepted; what goes wrong before that is printed to
standard error. Neither secret nor configuration is ever in an argument, a variable or a file.
"""

import contextlib
import os
import resource
import socket
import sys
from functools import partial

from toolfleet.backends.runner import config as boot
from toolfleet.backends.runner import kernel, memory, preload, spool
from toolfleet.backends.runner.address import unix_address
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.main import Outside, serve

READY = b"ready\n"


def main() -> None:
    """Boot and serve until the end."""
    mode, address = sys.argv[1:]
    _forget_locale()
    preload.preload()
    say = _detach() if mode == "daemon" else 1
    config, outside = _fetch(address) if mode == "fetch" else _listen(address)
    kernel.forgo_peeping()
    if config.provable:
        kernel.forgo_deceiving()
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))  # message queues outlive processes, and nobody sees them
    os.chdir("/")
    with contextlib.suppress(OSError):  # a command that names no directory of its own will be told
        os.makedirs(config.workdir, exist_ok=True)
    serve(config, outside, partial(os.write, say, READY))


def _fetch(address: str) -> tuple[Config, Outside]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(address)
        config, fds = boot.receive(channel)
    return config, Outside(socket.socket(fileno=fds["listener"]), spool.find(), memory.find_counter())


def _listen(address: str) -> tuple[Config, Outside]:
    config, secret = boot.read_line(0)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(unix_address(address))
    if not address.startswith("@"):
        os.chmod(address, 0o600)
    listener.listen(128)
    return config, Outside(listener, spool.find(), memory.find_counter(), secret)


def _forget_locale() -> None:
    """Take back what the interpreter adds to an environment without a locale: commands are to see the image's own."""
    with open("/proc/self/environ", "rb") as file:
        if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
            os.environ.pop("LC_CTYPE", None)


def _detach() -> int:
    """Go on in a child of its own session; its parent ends when the child has said something, or has failed to.

    Returns:
        The descriptor to say it to.
    """
    theirs, mine = os.pipe()
    if os.fork():
        os.close(mine)
        said = os.read(theirs, len(READY))
        os.write(1, said)
        os._exit(0 if said else 1)
    os.close(theirs)
    os.setsid()
    return mine
