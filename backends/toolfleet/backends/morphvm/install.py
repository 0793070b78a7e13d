"""The runner's way into a VM: what is there already, the upload, the start. All of it over one SSH connection."""

import asyncio
import hashlib
import shlex
from typing import Literal

from toolfleet.backends.morphvm.login import Login
from toolfleet.backends.runner import config as boot
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.standalone import READY
from toolfleet.backends.runtime import Bundle
from toolfleet.config.errors import SpecRefused

#: How memory and processes are limited in a VM: by a cgroup, or by the runner (``RLIMIT_NPROC``, and looks at /proc).
Limits = Literal["cgroup", "rlimit"]

#: Folder in the VM that holds interpreters, each below its own name, and the relay.
HOME = "/opt/toolfleet"
#: Seconds that the upload, and the start, may take.
_UPLOAD, _START = 120.0, 30.0
#: Processes in the cgroup beside those of commands: the runner, and who waits for it.
_OWN = 2

#: Prints whether the interpreter is there, and how limits can be held. A VM may be the copy of another one with
#: everything that ran in it: the runner of that one, and what it had started, goes first.
_LOOK = """
group=/sys/fs/cgroup/toolfleet
[ ! -w $group/cgroup.kill ] || echo 1 > $group/cgroup.kill
for file in /proc/[0-9]*/comm; do
    read -r name < "$file" && [ "$name" = toolfleet ] || continue
    pid=${file#/proc/}
    kill -9 "${pid%/comm}"
done 2>/dev/null
limits=none
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    echo '+memory +pids' > /sys/fs/cgroup/cgroup.subtree_control
    mkdir -p $group && echo "$2" > $group/memory.max && echo "$3" > $group/pids.max
    [ ! -f $group/memory.swap.max ] || echo 0 > $group/memory.swap.max
    [ "$(cat $group/pids.max)" != "$3" ] || [ "$(cat $group/memory.max)" = max ] || limits=cgroup
fi 2>/dev/null
# The machine's own root may have as many processes as it likes, whatever its RLIMIT_NPROC.
read -r _ outside _ < /proc/self/uid_map
[ $limits = cgroup ] || [ "$outside" = 0 ] || limits=rlimit
[ -f "$1/complete" ] && echo "$limits there" || echo "$limits missing"
"""
_UNPACK = """
set -e
umask 022
mkdir -p "$1.new"
cat > "$1.new/tar"
echo "$2  $1.new/tar" | sha256sum -c - > /dev/null
tar -xzf "$1.new/tar" -C "$1.new" --no-same-owner
rm "$1.new/tar"
touch "$1.new/bundle/complete"
rm -rf "$1"
mv "$1.new/bundle" "$1"
rm -r "$1.new"
"""
#: The runner is PID 1 of a namespace of its own, so that no command can end it by a signal, and all end with it. Its
#: standard input is the boot line, which holds the secret.
_START_RUNNER = """
set -e
limits=$1 relay=$2 runner=$3
umask 022
printf '#!/bin/sh\\nexec %s "$1"\\n' "$relay" > /opt/toolfleet/relay.new
chmod 755 /opt/toolfleet/relay.new
mv /opt/toolfleet/relay.new /opt/toolfleet/relay
[ "$limits" != cgroup ] || echo $$ > /sys/fs/cgroup/toolfleet/cgroup.procs
eval "exec unshare --pid --fork --mount-proc env -i $runner"
"""


async def look(login: Login, bundle: Bundle, memory: int, pids: int) -> tuple[Limits, bool]:
    """How a VM holds limits, of which memory (in bytes) is set where that is a cgroup, and whether it has the bundle.

    Raises:
        SpecRefused: limits cannot be held in it.
        OSError: it cannot be reached.
    """
    said = await login.run(_shell(_LOOK, _place(bundle), str(memory), str(pids + _OWN)))
    limits, _, there = said.strip().rpartition("\n")[2].partition(" ")
    if limits not in ("cgroup", "rlimit"):
        raise SpecRefused(
            "memory and pids cannot be limited in this VM: its snapshot needs cgroup v2 at /sys/fs/cgroup, with the "
            f"controllers memory and pids (it said {said.strip()[-200:]!r})"
        )
    return ("cgroup" if limits == "cgroup" else "rlimit"), there == "there"


async def upload(login: Login, bundle: Bundle) -> None:
    """Put the bundle into the VM, whole or not at all.

    Raises:
        OSError: it did not arrive as it was sent.
    """
    archive = await asyncio.to_thread(bundle.pack, "bundle")
    command = _shell(_UNPACK, _place(bundle), hashlib.sha256(archive).hexdigest())
    await login.run(command, archive, _UPLOAD)


async def start(login: Login, bundle: Bundle, limits: Limits, address: str, config: Config, secret: bytes) -> None:
    """Start the runner and return when it accepts connections at ``address``.

    Raises:
        OSError: it does not; the message is its own words.
    """
    place = _place(bundle)
    runner = shlex.join(bundle.argv(place, "listen", address, program="standalone"))
    command = _shell(_START_RUNNER, limits, shlex.join(bundle.argv(place, program="relay")), runner)
    await login.run(command, boot.line(config, secret), _START, until=READY)


def relay(address: str) -> str:
    """The command in a VM that carries bytes to the runner at ``address``."""
    return shlex.join([f"{HOME}/relay", address])


def _place(bundle: Bundle) -> str:
    return f"{HOME}/{bundle.path.name}"


def _shell(script: str, *arguments: str) -> str:
    return shlex.join(["/bin/sh", "-c", script, "toolfleet", *arguments])
