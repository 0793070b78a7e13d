"""A Docker engine for tests: the one that answers, or a private one that ends with the session."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import rootfs
from docker.errors import ImageNotFound
from services import missing

#: Images that the tests have made: a small Debian without Python, and busybox alone, without a libc.
DEBIAN, BUSYBOX = "toolfleet-test:debian", "toolfleet-test:busybox"
#: The Debian once more, with a user and a variable of its own.
PLAIN_USER = "toolfleet-test:user"

_START_WITHIN = 60.0
#: Where slirp4netns answers questions about names, as the machine itself would.
_SLIRP_DNS = "10.0.2.3"


@dataclass(frozen=True, slots=True)
class Place:
    """An engine, and where the ports are that its containers publish."""

    url: str
    network: Path | None
    """Network namespace of a private engine; None for one that was there, whose ports are ours."""


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """The URL of an engine that has the tests' images."""
    with place() as found:
        url = found.url
        client = docker.APIClient(base_url=url, version="auto", timeout=300)
        made = []
        try:
            for name, make in ((DEBIAN, _debian), (BUSYBOX, _busybox), (PLAIN_USER, _plain_user)):
                try:
                    client.inspect_image(name)  # type: ignore[no-untyped-call]
                except ImageNotFound:
                    make(client)
                    made.append(name)
            yield url
        finally:
            for name in reversed(made):
                client.remove_image(name, force=True)
            client.close()


@contextlib.contextmanager
def place(*, way_out: bool = False) -> Iterator[Place]:
    """An engine; with ``way_out`` its containers reach what this machine reaches."""
    url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if _answers(url):
        yield Place(url, None)
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing("a Docker engine, or root and dockerd to start one")
    with _private(["--dns", _SLIRP_DNS] if way_out else []) as (url, pid), contextlib.ExitStack() as stack:
        if way_out:
            stack.enter_context(_slirp(pid))
        yield Place(url, Path(f"/proc/{pid}/ns/net"))


@contextlib.contextmanager
def _private(options: list[str]) -> Iterator[tuple[str, int]]:
    """Start an engine in namespaces of its own: bridges, mounts and containers end with it. Its URL and pid."""
    with tempfile.TemporaryDirectory(prefix="toolfleet-dockerd-", ignore_cleanup_errors=True) as folder:
        url = f"unix://{folder}/docker.sock"
        places = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
        namespaces = ["--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # The shell is the namespace's init: dockerd itself would collect nothing of what its containers leave.
        init = ["sh", "-c", '"$@"; exit $?', "sh"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", *namespaces, *init, "dockerd", *places, *options, "-H", url],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until = time.monotonic() + _START_WITHIN
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > until:
                    words = (Path(folder) / "log").read_text()[-2000:]
                    missing(f"a Docker engine, and the private one does not start: {words}")
                time.sleep(0.1)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield url, int(children.split()[0])
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _slirp(pid: int) -> Iterator[None]:
    """Carry what leaves the network namespace of ``pid`` through this process's user: no rule or bridge of ours."""
    if shutil.which("slirp4netns") is None:
        missing("slirp4netns, for a private engine whose builds reach the package registries")
    ready, tell = os.pipe()
    options = ["--configure", "--mtu=65520", "--disable-host-loopback", f"--ready-fd={tell}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["slirp4netns", *options, str(pid), "tap0"], pass_fds=[tell], stdout=log, stderr=log, start_new_session=True
        )
        os.close(tell)
        try:
            if not os.read(ready, 1):
                process.wait()
                log.seek(0)
                missing(f"slirp4netns, and it does not start: {log.read().decode()[-500:]}")
            yield
        finally:
            os.close(ready)
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    """Asked without the SDK, which leaves sockets open when nobody answers."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        try:
            sock.connect(url.removeprefix("unix://"))
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in sock.recv(100)
        except OSError:
            return False


def _debian(client: docker.APIClient) -> None:
    import_root(client, rootfs.debian(), DEBIAN)


def _plain_user(client: docker.APIClient) -> None:
    dockerfile = f"FROM {DEBIAN}\nENV FLAVOUR=vanilla PATH=/opt/bin:/usr/bin:/bin\nWORKDIR /srv\nUSER 1234:1234\n"
    for _ in client.build(fileobj=io.BytesIO(dockerfile.encode()), tag=PLAIN_USER, rm=True, decode=True):
        pass


def import_root(client: docker.APIClient, folder: Path, name: str) -> None:
    """Make an image of an unpacked root filesystem."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        subprocess.run(["tar", "-C", str(folder), "-cf", file.name, "."], check=True)
        _import(client, Path(file.name), name)


def _busybox(client: docker.APIClient) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(rootfs.static_busybox(), "bin/busybox")
            for name in ("sh", "ls", "cat", "rm", "mkdir", "touch", "stat", "id", "echo", "sleep", "ps"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        file.flush()
        _import(client, Path(file.name), BUSYBOX)


def _import(client: docker.APIClient, file: Path, name: str) -> None:
    repository, _, tag = name.partition(":")
    client.import_image_from_file(str(file), repository=repository, tag=tag)
