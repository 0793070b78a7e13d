"""What the engine is asked for, and what a profile cannot have."""

import json
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import pytest
from docker_engine import BUSYBOX, PLAIN_USER
from integration.docker.conftest import OWNER, profile

from toolfleet.config.errors import BackendUnavailable, SandboxStartFailed, SpecRefused

if TYPE_CHECKING:
    import docker
    from integration.docker.conftest import Make

    from toolfleet.backends.docker import DockerBackend

DISK = {"storage": "disk", "docker": {"unlimited_disk": True, "user": "root"}}


async def test_a_container_is_confined_by_default(make: "Make", client: "docker.APIClient") -> None:
    """No capability, no way to get one, nobody's rights, a read-only image, limits, no network, no log on a disk."""
    box = await make(memory_mib=100, disk_mib=28, pids=40, cpu=0.5, env={"SECRET": "hidden"})
    status = dict(line.split(":", 1) for line in (await box.text("cat /proc/self/status")).splitlines())
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert await box.text("id -u; ls /sys/class/net; echo $SECRET") == "65534\nlo\nhidden"
    assert (await box.sh("echo x > /usr/x")).exit_code != 0
    found = client.inspect_container(f"toolfleet-{box.sandbox.ref.id}")
    host = found["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"], host["NanoCpus"]) == (2**27, 2**27, 41, 5 * 10**8)
    assert (host["Privileged"], host["LogConfig"]["Type"], host["AutoRemove"]) == (False, "none", True)
    assert [bind.split(":")[2] for bind in host["Binds"]] == ["ro", "ro"]
    assert "hidden" not in json.dumps(found)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": None}, 'set "image" in the profile'),
        ({"rootfs": "/"}, "no rootfs"),
        ({"network": "host"}, 'take network = "bridge"'),
        ({"docker": {"runtime": "kata"}}, "the engine has no runtime 'kata'; it has .*runc"),
        ({"storage": "disk"}, "cannot limit the disk of a sandbox .* docker.unlimited_disk = true"),
        ({"image": "toolfleet-test:none", "docker": {"pull": "never"}}, "docker pull toolfleet-test:none"),
        ({"docker": {"user": "no-such-user"}}, "has no such user"),
        ({"env": {"A": "\0"}}, "NUL byte"),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused_with_the_remedy(make: "Make", fields: dict[str, Any], words: str) -> None:
    """Before anything is left behind, see the fixture."""
    with pytest.raises(SpecRefused, match=words):
        await make(**fields)


async def test_an_image_that_cannot_be_pulled_is_a_failed_start(make: "Make") -> None:
    """The registry may be back later."""
    with pytest.raises(SandboxStartFailed, match="cannot pull"):
        await make(image="127.0.0.1:9/none")


@pytest.mark.parametrize("transport", ["socket", "relay"])
async def test_an_image_without_python_shell_or_libc_will_do(make: "Make", transport: str) -> None:
    """The interpreter comes along, with the loader and the libraries it needs."""
    box = await make(image=BUSYBOX, docker={"transport": transport})
    assert await box.text("cat /proc/1/comm; id -u; echo $0") == "toolfleet\n65534\nsh"


async def test_the_image_says_who_and_in_which_environment(make: "Make") -> None:
    """Unless the profile does; the runner adds nothing but what is missing."""
    box = await make(image=PLAIN_USER, env={"MORE": "yes"})
    assert await box.text("id -u; echo $FLAVOUR $MORE $PATH ${LC_CTYPE-none}") == (
        "1234\nvanilla yes /opt/bin:/usr/bin:/bin none"
    )
    other = await make(image=PLAIN_USER, docker={"user": "65534"}, workdir="/tmp", env={"FLAVOUR": "mint"})
    assert await other.text("id -u; echo $FLAVOUR $PWD") == "65534\nmint /tmp"


async def test_root_owns_the_image_but_nothing_else(make: "Make") -> None:
    """With storage on disk, the whole image can be changed; other users' files cannot, for no capability is left."""
    box = await make(**DISK)
    assert await box.text("echo x > /usr/x; cat /usr/x; id -u; tar -C /tmp -cf /tmp/t /usr/x; tar -xf /tmp/t") == "x\n0"
    for command in ("chown 1 /usr/x", "mount -t tmpfs none /mnt", "mknod /tmp/n b 1 1", "su nobody -s /bin/sh"):
        assert (await box.sh(command)).exit_code != 0, command


async def test_a_limit_on_cores_holds(make: "Make") -> None:
    """A quarter of a core is what the kernel counts as the container's."""
    box = await make(cpu=0.25)
    assert await box.text("cat /sys/fs/cgroup/cpu*/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | head -1") in (
        "25000",
        "25000 100000",
    )


@pytest.mark.parametrize("network", ["bridge", "internal"])
async def test_on_a_network_no_sandbox_reaches_another(make: "Make", network: str) -> None:
    """An address of its own each; a listener that its own sandbox reaches is out of reach for the neighbour."""
    one, two = await make(network=network), await make(network=network)
    address = (await one.text("hostname -i")).split()[0]
    assert address != (await two.text("hostname -i")).split()[0]
    await one.sh(
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 4711, Listen => 5);"
        ' while ($c = $s->accept) { print $c "hello\n"; close $c }\' >/dev/null 2>&1 &'
    )
    knock = f"timeout 2 bash -c 'cat < /dev/tcp/{address}/4711'"
    assert await one.text(f"until {knock} 2>/dev/null; do :; done") == "hello"
    assert (await two.sh(knock)).exit_code == 124


@pytest.mark.parametrize(("network", "leads_out"), [("bridge", True), ("internal", False)])
async def test_only_a_bridge_leads_out(make: "Make", client: "docker.APIClient", network: str, leads_out: bool) -> None:
    """As the engine has made the network."""
    await make(network=network)
    found = client.inspect_network(f"toolfleet-{network}")
    assert found["Internal"] is not leads_out
    assert found["Options"]["com.docker.network.bridge.enable_icc"] == "false"


async def test_the_probe_tells_what_holds_the_limits(backend: "DockerBackend") -> None:
    """And what a user should know."""
    capabilities = await backend.probe()
    assert {"none", "bridge", "internal"} >= capabilities.networks
    assert {name: capabilities.limits[name] for name in ("memory", "pids", "cpu")} == dict.fromkeys(
        ("memory", "pids", "cpu"), "cgroup"
    )
    assert (capabilities.attach, capabilities.snapshot) == ("host", True)
    assert any("only docker.writable" in note for note in capabilities.notes)


async def test_without_an_engine_the_probe_says_so(backend: "DockerBackend", monkeypatch: pytest.MonkeyPatch) -> None:
    """With its address; a start that meets the same may be tried again."""

    async def words(attempt: Awaitable[object], kind: type[Exception]) -> str:
        try:
            await attempt
        except kind as error:
            return str(error)
        raise AssertionError("it did not fail")

    other = type(backend)(backend._runtime_dir)
    with monkeypatch.context() as context:
        context.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
        said = await words(other.probe(), BackendUnavailable)
        assert "/no/such/docker.sock does not answer: No such file" in said
        assert "Is it running" in said
        assert said == await words(other.create(profile(), OWNER), SandboxStartFailed)
    await other.shutdown()
