"""What a command cannot see, reach or change."""

import os

from toolfleet.backends.conformance.core import Rig, check

_FORBIDDEN = (
    "mount -t tmpfs none /tmp",
    "unshare -U true",
    "unshare -m true",
    "mknod /tmp/d b 254 0",
    "echo 1 > /proc/sys/kernel/sysrq",
    "echo 9 > /proc/sys/user/max_user_namespaces",
    "echo x > /proc/sysrq-trigger",
    "hostname other",
    "chroot / true",
    "dmesg",
    "nsenter -t 1 -m true",
)


@check
async def commands_have_no_privileges(rig: Rig) -> None:
    """No mounts, no namespaces, no devices, no kernel settings, no way to get more."""
    box = await rig.box()
    for command in _FORBIDDEN:
        assert (await box.sh(command)).exit_code != 0, command
    assert (await box.text("grep NoNewPrivs /proc/self/status")).split()[1] == "1"


@check
async def the_control_channel_cannot_be_reached(rig: Rig) -> None:
    """No command inherits a descriptor, can look into the runner's, or read its memory."""
    box = await rig.box()
    assert await box.text("echo /proc/self/fd/*") == "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"
    targets = (await box.text("readlink /proc/self/fd/* | head -3")).splitlines()
    assert [target.partition("[")[0] for target in targets] == ["/dev/null", "pipe:", "pipe:"]
    for path in ("fd/3", "mem"):
        outcome = await box.sh(f"head -c 1 /proc/$PPID/{path}")
        assert b"Permission denied" in outcome.stderr, (path, outcome)


@check
async def nothing_of_the_worker_is_visible(rig: Rig) -> None:
    """Neither its variables nor its files."""
    os.environ["TOOLFLEET_CONFORMANCE"] = "secret of the worker"
    try:
        box = await rig.box()
        assert (await box.sh("env | grep -a 'secret of the worker'")).exit_code == 1
    finally:
        del os.environ["TOOLFLEET_CONFORMANCE"]
    found = await box.sh("find / -xdev \\( -name runner.sock -o -name record.json \\) 2>/dev/null")
    assert found.stdout == b""


@check
async def without_a_network_there_is_only_loopback(rig: Rig) -> None:
    """An interface that leads back, and no route."""
    box = await rig.box(network="none")
    devices = await box.text("tail -n +3 /proc/net/dev | cut -d: -f1")
    assert devices.split() == ["lo"]
    assert await box.text("wc -l < /proc/net/route") in ("0", "1")


@check
async def sandboxes_see_nothing_of_each_other(rig: Rig) -> None:
    """Files, processes, shared memory, variables."""
    one, two = await rig.box(), await rig.box(env={"OTHER": "x"})
    await one.text("echo secret | tee /tmp/.a /dev/shm/b; sleep 8001.5 >/dev/null 2>&1 &")
    assert await two.text("ls -A /tmp /dev/shm | grep -v : | xargs") == ""
    assert await two.alive("sleep 8001.5") == []
    assert await one.alive("sleep 8001.5") != []
    assert await one.text("echo $OTHER") == ""
