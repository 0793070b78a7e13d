"""Trajectories that follow one another in one slot: what the one leaves behind, the next never finds."""

import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from services import missing

from toolfleet.config.contract import Status
from toolfleet.config.profile import Profile
from toolfleet.producer import Fleet

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Everything by which a tenant could be told: hidden, linked, locked, piped, listening, running, installed.
_SPOOR = """
for place in /tmp /var/tmp /dev/shm /work "$HOME"; do
  mkdir -p "$place/of-a/.hidden" && echo secret > "$place/of-a/.hidden/f" && echo secret > "$place/.of-a" || exit
  ln -s "$place/of-a" "$place/link-of-a"; ln -s /etc "$place/etc-of-a"
  mkfifo "$place/pipe-of-a"
  touch "$place/locked-of-a"; mkdir "$place/shut-of-a"; chmod 0 "$place/locked-of-a" "$place/shut-of-a"
done
echo 'export OF_A=secret' | tee -a ~/.bashrc ~/.bash_profile ~/.profile > ~/.bash_history
printf '#!/bin/sh\\necho of-a\\n' > /usr/local/bin/ls 2>/dev/null
export OF_A=secret
setsid perl -MIO::Socket::UNIX -e '$0 = "server-of-a"; IO::Socket::UNIX->new(Local => "/tmp/sock-of-a", Listen => 1); \
  sleep 7001' > /dev/null 2>&1 &
while ! test -S /tmp/sock-of-a; do sleep 0.01; done
"""
#: What such a one would see of it; nothing, in a sandbox that nobody has used.
_LOOK = """
find / -xdev -name '*of-a*' 2>/dev/null
grep -rl secret /tmp /var/tmp /dev/shm /work "$HOME" 2>/dev/null
pgrep -fa '[s]erver-of-a'
env | grep OF_A
cat /proc/net/unix | grep of-a
true
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow() -> AsyncIterator[Fleet]:
    """One worker with one slot, and nothing warm beside it."""
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    async with Fleet.connect(workers=1, slots=1, heartbeat=0.2, profiles={"default": Profile(warm=0)}) as connected:
        yield connected


async def test_nothing_of_a_trajectory_is_left_for_the_next(narrow: Fleet) -> None:
    async with narrow.trajectory() as first:
        left = await first.terminal(_SPOOR)
        assert (left.status, left.exit_code) == (Status.OK, 0), left
        assert len((await first.terminal(_LOOK)).stdout.splitlines()) > 20
    async with narrow.trajectory() as second:
        assert (await second.terminal(_LOOK)).stdout == ""
        assert "of-a" not in (await second.terminal("ls; echo $OF_A", workdir="/tmp")).stdout


async def test_one_path_is_one_file_for_every_tool(narrow: Fleet) -> None:
    async with narrow.trajectory() as t:
        for path in ("/work/a", "/workspace/b", "/data/cache/c", "/tmp/d"):
            assert (await t.write_file(path, f"{path}\n")).exit_code == 0
            assert (await t.terminal(f"cat {path}; echo more >> {path}")).stdout == f"{path}\n"
            assert (await t.read_file(path)).stdout == f"{path}\nmore\n"


async def test_what_a_failing_command_prints_switches_nothing_off(narrow: Fleet) -> None:
    says = "bwrap: No permissions to create new namespace, likely because the kernel does not allow it"
    confined = (
        "test ! -e /etc/shadow; ls -A /tmp; tail -n +3 /proc/net/dev | cut -d: -f1 | xargs; readlink /proc/self/ns/*"
    )
    async with narrow.trajectory() as t:
        before = (await t.terminal(confined)).stdout
        r = await t.terminal(f"echo '{says}'; echo '{says.lower()}' >&2; exit 1")
        assert (r.status, r.exit_code, r.attempts) == (Status.OK, 1, 1)
        assert (await t.terminal(confined)).stdout == before
    async with narrow.trajectory() as t:
        assert (await t.terminal(confined)).stdout.splitlines()[:1] == ["lo"]
