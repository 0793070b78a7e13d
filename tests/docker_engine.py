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


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """The URL of an engine that has the tests' images."""
    with _answering() as url:
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
def _answering() -> Iterator[str]:
    url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if _answers(url):
        yield url
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing("a Docker engine, or root and dockerd to start one")
    with _private() as url:
        yield url


@contextlib.contextmanager
def _private() -> Iterator[str]:
    """Start an engine in namespaces of its own: bridges, mounts and containers end with it."""
    with tempfile.TemporaryDirectory(prefix="toolfleet-dockerd-", ignore_cleanup_errors=True) as folder:
        url = f"unix://{folder}/docker.sock"
        places = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
        namespaces = ["--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # The shell is the namespace's init: dockerd itself would collect nothing of what its containers leave.
        init = ["sh", "-c", '"$@"; exit $?', "sh"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", *namespaces, *init, "dockerd", *places, "-H", url],
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
            yield url
        finally:
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
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        subprocess.run(["tar", "-C", str(rootfs.debian()), "-cf", file.name, "."], check=True)
        _import(client, Path(file.name), DEBIAN)


def _plain_user(client: docker.APIClient) -> None:
    dockerfile = f"FROM {DEBIAN}\nENV FLAVOUR=vanilla PATH=/opt/bin:/usr/bin:/bin\nWORKDIR /srv\nUSER 1234:1234\n"
    for _ in client.build(fileobj=io.BytesIO(dockerfile.encode()), tag=PLAIN_USER, rm=True, decode=True):
        pass


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
