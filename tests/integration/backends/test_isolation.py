"""What a command cannot see, reach or change."""

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from integration.backends.conftest import Box


async def test_only_the_base_of_the_host_is_visible(box: "Box") -> None:
    """No bundle, no old root, no socket, no home, no secret of /etc."""
    top = set((await box.text("ls -A /")).split())
    assert top <= {"bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin"} | {
        "tmp",
        "usr",
        "var",
    }
    assert await box.text("ls -A /home /root /tmp /run | grep -v : | tr -d '\\n'") == ""
    assert (await box.sh("cat /etc/shadow /etc/machine-id")).exit_code != 0
    mounts = await box.text("cut -d' ' -f5 /proc/self/mountinfo")
    assert not [line for line in mounts.splitlines() if line.startswith(("/runtime", "/newroot", "/oldroot"))]
    assert await box.text("find / -xdev -name '*.sock' -o -xdev -name record.json | head") == ""


async def test_the_control_channel_cannot_be_reached(box: "Box") -> None:
    """No command inherits a descriptor, can look into the runner's, trace it or read its memory."""
    assert await box.text("echo /proc/self/fd/*") == "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"
    targets = (await box.text("readlink /proc/self/fd/* | head -3")).splitlines()
    assert [target.partition("[")[0] for target in targets] == ["/dev/null", "pipe:", "pipe:"]
    for path in ("fd", "environ", "root/", "cwd/", "mem", "maps"):
        outcome = await box.sh(f"ls -l /proc/1/{path} && cat /proc/1/{path}")
        assert outcome.exit_code != 0, path
    assert (await box.text("cat /proc/net/unix | wc -l")) == "1"


async def test_commands_have_no_privileges(box: "Box") -> None:
    """Fake root over its own files; no mounts, no user namespaces, no devices, no kernel settings, no setuid."""
    status = dict(line.split(":", 1) for line in (await box.text("cat /proc/self/status")).splitlines())
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0b111011
    assert status["NoNewPrivs"].strip() == "1"
    for command in (
        "mount -t tmpfs none /tmp",
        "unshare -U true",
        "unshare -m true",
        "mknod /tmp/d b 254 0",
        "echo 1 > /proc/sys/kernel/sysrq",
        "echo 9 > /proc/sys/user/max_user_namespaces",
        "echo x > /proc/sysrq-trigger",
        "echo x > /usr/x",
        "echo x > /dev/x",
        "hostname other",
        "chroot / true",
        "cat /proc/kcore",
        "dmesg",
        "nsenter -t 1 -m true",
    ):
        assert (await box.sh(command)).exit_code != 0, command


async def test_fake_root_is_root_over_its_own_files(box: "Box") -> None:
    """It reads and removes what no mode allows."""
    assert await box.text("echo x > /tmp/f; chmod 0 /tmp/f; cat /tmp/f; chown 0:0 /tmp/f; rm /tmp/f; id -u") == "x\n0"


async def test_there_is_no_network(box: "Box") -> None:
    """A loopback interface and nothing else."""
    devices = await box.text("tail -n +3 /proc/net/dev | cut -d: -f1")
    assert devices.strip() == "lo"
    assert await box.text("wc -l < /proc/net/route") in ("0", "1")


async def test_the_network_of_the_host_is_there_when_asked_for(make: "Callable[..., Awaitable[Box]]") -> None:
    """The same interfaces, and the host's resolver."""
    box = await make(network="host")
    devices = set((await box.text("tail -n +3 /proc/net/dev | cut -d: -f1")).split())
    assert devices == set(os.listdir("/sys/class/net")) - {"bonding_masters"}
    with open("/etc/resolv.conf") as file:
        assert (await box.read("/etc/resolv.conf")).stdout.decode() == file.read()


async def test_sandboxes_see_nothing_of_each_other(make: "Callable[..., Awaitable[Box]]") -> None:
    """Files, processes, shared memory, sockets; and different users on the host."""
    one, two = await make(), await make()
    await one.text("echo secret | tee /tmp/a /dev/shm/b /root/c; sleep 8001 >/dev/null 2>&1 &")
    assert await two.text("ls -A /tmp /dev/shm /root | grep -v : | tr -d '\\n'") == ""
    assert await two.commands() == []
    assert await one.commands() != []
    uids = {(await box.text("cut -d' ' -f1-20 /proc/self/uid_map")).split()[1] for box in (one, two)}
    assert len(uids) == (2 if os.geteuid() == 0 else 1)


async def test_a_sandbox_runs_as_an_unprivileged_user_of_the_host(box: "Box", runtime_dir: "Path") -> None:
    """Even when the worker is root: what breaks out of the namespaces finds itself nobody."""
    assert int((await box.text("cat /proc/self/uid_map")).split()[1]) != 0
    assert oct((runtime_dir / "sandboxes").stat().st_mode)[-3:] == "700"


@pytest.mark.parametrize("path", ["/sandbox.out", "/dev/shm/x", "/tmp/x"])
async def test_the_disk_limit_holds(make: "Callable[..., Awaitable[Box]]", path: str) -> None:
    """No place of the sandbox takes more than it; a file operation says so in words."""
    box = await make(disk_mib=16)
    outcome = await box.sh(f"head -c 100M /dev/zero > {path}; stat -c %s {path}")
    assert b"No space left on device" in outcome.stderr
    assert 0 < int(outcome.stdout) <= 16 * 2**20
    written = await box.write("/tmp/y", b"x" * 17_000_000)
    assert (written.exit_code, written.error) == (126, "No space left: the sandbox may write 16 MiB")
    assert (await box.sh("ls -A /tmp | grep toolfleet")).exit_code == 1
    await box.text(f"rm {path}")
    assert (await box.write("/tmp/y", b"x" * 12_000_000)).error is None


async def test_the_number_of_files_is_limited(make: "Callable[..., Awaitable[Box]]") -> None:
    """Empty files cost kernel memory too."""
    box = await make(disk_mib=8)
    outcome = await box.sh("mkdir /tmp/d; cd /tmp/d; seq 1 20000 | xargs touch; ls | wc -l", timeout=30)
    assert int(outcome.stdout) < 3000
