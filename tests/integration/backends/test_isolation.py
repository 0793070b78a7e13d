"""What a command cannot see, reach or change."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from toolfleet.backends.conformance.box import Box


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
    """Fake root over its own files, and nothing of the host's."""
    status = dict(line.split(":", 1) for line in (await box.text("cat /proc/self/status")).splitlines())
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0b111011
    assert status["NoNewPrivs"].strip() == "1"
    for command in (
        "echo x > /usr/x",
        "echo x > /dev/x",
        "cat /proc/kcore",
    ):
        assert (await box.sh(command)).exit_code != 0, command


async def test_fake_root_is_root_over_its_own_files(box: "Box") -> None:
    """It reads and removes what no mode allows."""
    assert await box.text("echo x > /tmp/f; chmod 0 /tmp/f; cat /tmp/f; chown 0:0 /tmp/f; rm /tmp/f; id -u") == "x\n0"


async def test_the_network_of_the_host_is_there_when_asked_for(make: "Callable[..., Awaitable[Box]]") -> None:
    """The same interfaces, and the host's resolver."""
    box = await make(network="host")
    devices = set((await box.text("tail -n +3 /proc/net/dev | cut -d: -f1")).split())
    assert devices == set(os.listdir("/sys/class/net")) - {"bonding_masters"}
    with open("/etc/resolv.conf") as file:
        assert (await box.read("/etc/resolv.conf")).stdout.decode() == file.read()


async def test_sandboxes_are_different_users_of_the_host(make: "Callable[..., Awaitable[Box]]") -> None:
    """So that not even what breaks out of one reaches another."""
    one, two = await make(), await make()
    uids = {(await box.text("cut -d' ' -f1-20 /proc/self/uid_map")).split()[1] for box in (one, two)}
    assert len(uids) == (2 if os.geteuid() == 0 else 1)


async def test_a_sandbox_runs_as_an_unprivileged_user_of_the_host(box: "Box", runtime_dir: "Path") -> None:
    """Even when the worker is root: what breaks out of the namespaces finds itself nobody."""
    assert int((await box.text("cat /proc/self/uid_map")).split()[1]) != 0
    assert oct((runtime_dir / "sandboxes").stat().st_mode)[-3:] == "700"


async def test_the_disk_limit_holds_for_the_whole_root(make: "Callable[..., Awaitable[Box]]") -> None:
    """What is written to one place is missing at the other."""
    box = await make(disk_mib=16)
    outcome = await box.sh("head -c 100M /dev/zero > /sandbox.out; stat -c %s /sandbox.out")
    assert b"No space left on device" in outcome.stderr
    assert 0 < int(outcome.stdout) <= 16 * 2**20
    assert (await box.write("/tmp/y", b"x" * 1_000_000)).error == "No space left: the sandbox may write 16 MiB"
    await box.text("rm /sandbox.out")
    assert (await box.write("/tmp/y", b"x" * 12_000_000)).error is None


async def test_commands_run_in_a_clean_environment(box: "Box") -> None:
    """Nothing of the worker's comes along."""
    names = {line.partition("=")[0] for line in (await box.text("env")).splitlines()}
    own = {"PWD", "SHLVL", "_"}
    assert names - own == {"PATH", "HOME", "USER", "SHELL", "TERM", "TAR_OPTIONS", "TOOLFLEET_CALL"}


async def test_file_operations_have_no_more_rights_than_commands(box: "Box") -> None:
    """They say so in words."""
    assert (await box.read("/proc/1/environ")).error == "Permission denied: /proc/1/environ"
    assert (await box.write("/usr/x", b"x")).error == "Read-only file system: /usr/x"
