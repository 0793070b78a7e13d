"""What the host tells a runner at its start."""

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from typing import Any

#: More than enough for an environment and a few small files; the message must fit into one datagram.
MAX_BOOT = 128 * 1024
#: Descriptors that may come along, see `receive`.
MAX_FDS = 4

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Config:
    """The limits and the look of one sandbox; sizes in bytes, times in seconds."""

    disk: int
    memory: int
    pids: int
    ttl: float
    """Until the first ping: how long the runner lives without hearing from a host process."""
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    overlay: bool = False
    """The base is a root filesystem under an overlay, not the host's ``/usr``."""
    staged: list[str] = field(default_factory=list)
    """Mounts to move to these paths of the new root from below the stage, see `enter`."""
    files: dict[str, str] = field(default_factory=dict)
    """Text files to write into the new root, replacing what is there."""
    defaults: dict[str, str] = field(default_factory=dict)
    """Text files to write where the base has none."""
    links: dict[str, str] = field(default_factory=dict)
    """Symbolic links to make: path to target."""
    inherit: bool = False
    """Commands get the runner's own environment below ``env``: that of the image, where an engine has set it."""
    count: bool = True
    """The runner holds the limit on processes (``RLIMIT_NPROC``); False where the engine counts them."""
    provable: bool = False
    """Commands have no power by which they could deceive a later look at the sandbox, see `pristine`."""
    monitor: bool = False
    """No cgroup holds the memory limit, so the runner has to."""
    grace: float = 0.5
    """Between TERM and KILL."""
    keep: int = 200_000
    """Bytes kept of each output stream of a command."""


def receive(channel: socket.socket) -> tuple[Config, dict[str, int]]:
    """Read the boot message: the configuration, and descriptors by name.

    The message is ``{"config": ..., "fds": [names]}`` with the descriptors attached in the same order: ``oom`` (see
    `memory.OomCounter`), ``lower``, ``disk`` and ``origin`` (see `enter`), ``listener`` (see `standalone`).
    """
    data, fds, _, _ = socket.recv_fds(channel, MAX_BOOT, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError("the host process ended before it had sent a configuration")
    message: dict[str, Any] = json.loads(data)
    return Config(**message["config"]), dict(zip(message["fds"], fds, strict=True))


def send(channel: socket.socket, config: Config, fds: dict[str, int]) -> None:
    """Write the boot message that `receive` reads."""
    message = _checked({"config": asdict(config), "fds": list(fds)})
    socket.send_fds(channel, [message], list(fds.values()))


def read_line(fd: int) -> tuple[Config, bytes]:
    """Read the boot line: the configuration, and the secret of the channel (see `seal`)."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(fd, MAX_BOOT)
        line += data
        if not data or len(line) > MAX_BOOT:
            raise EOFError("the host process has sent no configuration")
    message: dict[str, Any] = json.loads(line)
    return Config(**message["config"]), bytes.fromhex(message["secret"])


def line(config: Config, secret: bytes) -> bytes:
    """The boot line that `read_line` reads."""
    return _checked({"config": asdict(config), "secret": secret.hex()}) + b"\n"


def _checked(message: dict[str, Any]) -> bytes:
    text = json.dumps(message).encode("ascii")
    if len(text) >= MAX_BOOT:
        raise ValueError(f"the environment of the profile takes {len(text)} bytes; at most {MAX_BOOT} are possible")
    return text
