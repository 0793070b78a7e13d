"""An engine on another machine, as far as anybody can tell: reached by TCP with TLS, sharing no file with us."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.docker.conftest import OWNER, profile, remains
from services import missing

from toolfleet.backends.base import Request
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.docker import DockerBackend
from toolfleet.config.errors import BackendUnavailable

if TYPE_CHECKING:
    import docker


def _certificates(folder: Path) -> None:
    """An authority, a certificate for the engine and one for its clients."""
    if shutil.which("openssl") is None:
        missing("openssl")
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run(
        [*new, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=authority"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    for name in ("server", "client"):
        signed = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", f"{name}-key.pem", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        plain = ["-addext", "basicConstraints=critical,CA:false"]
        subprocess.run([*new, *signed, *files, *plain], cwd=folder, check=True, capture_output=True)
    (folder / "client.pem").rename(folder / "cert.pem")
    (folder / "client-key.pem").rename(folder / "key.pem")


@contextlib.asynccontextmanager
async def _in_front_of(path: str, certificates: Path) -> AsyncIterator[int]:
    """The port of a server that asks for a certificate and passes what comes on to the engine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "server.pem", certificates / "server-key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    carried: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(path)
        for work in (copy(reader, engine_writer), copy(engine_reader, writer)):
            carried.add(asyncio.create_task(work))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.wait_for(asyncio.gather(*carried), 20)


@pytest.fixture
async def remote(
    client: "docker.APIClient", docker_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DockerBackend]:
    """A backend for it; at the end nothing but the interpreter's volume is left there, which goes too."""
    with tempfile.TemporaryDirectory(prefix="toolfleet-") as folder:
        certificates, runtime_dir = Path(folder, "certificates"), Path(folder, "runtime")
        certificates.mkdir()
        await asyncio.to_thread(_certificates, certificates)
        async with _in_front_of(docker_url.removeprefix("unix://"), certificates) as port:
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
            monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
            monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
            backend = DockerBackend(runtime_dir)
            yield backend
            for ref in await backend.list(OWNER):
                await backend.destroy(ref)
            await backend.shutdown()
        assert list((runtime_dir / "docker").glob("*")) == []
    assert not await asyncio.to_thread(remains, client)
    volumes = client.volumes(filters={"label": "toolfleet.interpreter"})["Volumes"] or []
    for volume in volumes:
        client.remove_volume(volume["Name"])
    client.close()


async def test_sandboxes_on_a_remote_engine(remote: DockerBackend, client: "docker.APIClient", tmp_path: Path) -> None:
    """The interpreter is uploaded once, calls and files come through, and any worker that has the lease takes over."""
    assert (await remote.probe()).attach == "anywhere"
    boxes = [Box(await remote.create(profile(), OWNER)) for _ in range(2)]
    assert [await box.text("echo there; cat /proc/1/comm") for box in boxes] == ["there\ntoolfleet"] * 2
    assert len(client.volumes(filters={"label": "toolfleet.interpreter"})["Volumes"]) == 1
    binds = client.inspect_container(f"toolfleet-{boxes[0].sandbox.ref.id}")["HostConfig"]["Binds"]
    assert [bind.split(":")[0].startswith("/") for bind in binds] == [False]
    body = bytes(range(256)) * 10_000
    written = await boxes[0].sandbox.run(Request("w", "write", {"path": "/tmp/f"}, 20, body))
    assert written.error is None
    elsewhere = DockerBackend(tmp_path)
    heir = Box(await elsewhere.attach(boxes[0].sandbox.ref))
    read = await heir.sandbox.run(Request("r", "read", {"path": "/tmp/f", "max_bytes": 10**7}, 20))
    assert read.stdout == body
    await heir.sandbox.detach()
    await elsewhere.shutdown()
    for box in boxes:
        await box.sandbox.close()


async def test_the_interpreter_can_be_read_but_not_changed(remote: DockerBackend) -> None:
    """By no sandbox, for all of them start from it."""
    box = Box(await remote.create(profile(docker={"user": "root"}), OWNER))
    outcome = await box.sh("echo x >> /.toolfleet/runtime/lib/loader || rm -rf /.toolfleet/runtime")
    assert outcome.stderr.count(b"Read-only file system") > 1
    await box.sandbox.close()


async def test_an_engine_that_does_not_know_us_is_unavailable(
    remote: DockerBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the reason."""
    await asyncio.to_thread(_certificates, tmp_path)
    with monkeypatch.context() as context:
        context.setenv("DOCKER_CERT_PATH", str(tmp_path))
        with pytest.raises(BackendUnavailable, match=r"does not answer: .*certificate verify failed"):
            await DockerBackend(tmp_path).probe()
