"""Machines with a network of their own: namespaces that a cable joins to one switch, each of which can be cut.

Nothing has a name that could stay behind: a namespace lives as long as the process that holds it, cables and switch
live as long as their namespaces, and the holders die with the test, whatever ends it.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from fleet_processes import wait_until
from services import missing

from toolfleet.producer.embedded import find_redis_server

PR_SET_PDEATHSIG = 1
PORT = 6379


class Machine:
    """A network namespace; ``within`` is put before a command to run it there."""

    def __init__(self, holder: subprocess.Popen[bytes], address: str) -> None:
        self.pid = holder.pid
        self.address = address
        self.within = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]

    def ip(self, command: str) -> None:
        """Run ``ip COMMAND`` there."""
        subprocess.run([*self.within, "ip", *command.split()], check=True)


class Network:
    """A switch with a Redis on it, and machines around it."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack = stack
        self._switch = self._machine("10.0.0.1")
        self._machines = 0
        self._switch.ip("link add switch type bridge")
        self._switch.ip(f"addr add {self._switch.address}/24 dev switch")
        self._switch.ip("link set switch up")
        socket = folder / "redis.sock"
        options = ["--unixsocket", str(socket), "--bind", self._switch.address, "--port", str(PORT)]
        more = ["--protected-mode", "no", "--save", "", "--dir", str(folder), "--loglevel", "warning"]
        self._stack.enter_context(_process([*self._switch.within, str(find_redis_server()), *options, *more]))
        wait_until(socket.exists)
        self.here = f"unix://{socket}"
        """The URL of the Redis for who is on no machine: sockets in the file system know no network."""
        self.url = f"redis://{self._switch.address}:{PORT}/0"
        """Its URL for the machines."""

    def machine(self) -> Machine:
        """One more machine, its cable plugged in."""
        self._machines += 1
        made = self._machine(f"10.0.0.{self._machines + 1}")
        self._switch.ip(f"link add {self._port(made)} type veth peer name eth0 netns {made.pid}")
        self._switch.ip(f"link set {self._port(made)} master switch")
        made.ip(f"addr add {made.address}/24 dev eth0")
        made.ip("link set eth0 up")
        self.heal(made)
        return made

    def cut(self, machine: Machine) -> None:
        """Pull the cable: packets vanish, and nobody is told."""
        self._switch.ip(f"link set {self._port(machine)} down")

    def heal(self, machine: Machine) -> None:
        """Plug it in."""
        self._switch.ip(f"link set {self._port(machine)} up")

    def _machine(self, address: str) -> Machine:
        holder = self._stack.enter_context(_process(["unshare", "--net", "sleep", "infinity"]))
        own = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own)
        made = Machine(holder, address)
        made.ip("link set lo up")
        return made

    def _port(self, machine: Machine) -> str:
        return f"port{machine.address.rpartition('.')[2]}"


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network whose Redis lives in ``folder``."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        missing("root, iproute2 and util-linux, for network namespaces")
    if find_redis_server() is None:
        missing("redis-server")
    with contextlib.ExitStack() as stack:
        yield Network(stack, folder)


@contextlib.contextmanager
def _process(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, preexec_fn=_die_with_parent)  # noqa: PLW1509 - nothing else forks here meanwhile
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
