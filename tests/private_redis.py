"""A Redis that a test may stop, kill, fill, demote and start again."""

import contextlib
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis
from fleet_processes import free_port, wait_until
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_options import debugging
from services import missing

from toolfleet.producer.embedded import find_redis_server


class PrivateRedis:
    """A redis-server on a port of this machine, with a folder of its own; options as on its command line."""

    def __init__(self, folder: Path, *options: str, password: str = "", sentinel_of: str = "") -> None:
        """``sentinel_of``: it is a Sentinel, with this configuration."""
        self._first = ["--save", ""]
        if sentinel_of:
            config = folder / "sentinel.conf"
            config.write_text(sentinel_of)
            self._first = [str(config), "--sentinel"]
        self.port = free_port()
        self._password = password or None
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = [*options, *(["--requirepass", password, "--masterauth", password] if password else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        server = find_redis_server()
        if server is None:
            missing("redis-server")
        fixed = ["--port", str(self.port), "--dir", str(self._folder), "--loglevel", "warning"]
        debug = [] if "--sentinel" in self._first else debugging(str(server))
        argv = [server, *self._first, *debug, *fixed, *self._options]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        wait_until(self.serves)

    def serves(self) -> bool:
        """It takes commands."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        with contextlib.suppress(redis.exceptions.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False

    def client(self) -> redis.Redis:
        """A connection to it that sends each command once, and waits for its answer."""
        return redis.Redis(port=self.port, password=self._password, socket_timeout=60, retry=Retry(NoBackoff(), 0))

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; wait for its end after one that ends it."""
        assert self._process is not None
        self._process.send_signal(number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._process.wait()

    def refused(self, code: str) -> int:
        """How many commands it has refused with ``code``."""
        with self.client() as client:
            counted = client.info("errorstats").get(f"errorstat_{code}", {"count": 0})
        return int(counted["count"])

    def has(self, key: str) -> int:
        """1 when the key exists, else 0."""
        with self.client() as client:
            return int(client.exists(key))

    def forget(self, size: int) -> None:
        """Cut the last ``size`` bytes off its append-only file, as the crash of its machine may."""
        [journal] = (self._folder / "appendonlydir").glob("*.incr.aof")
        with journal.open("r+b") as file:
            file.truncate(max(0, journal.stat().st_size - size))

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def private_redis(*options: str, password: str = "", sentinel_of: str = "") -> Iterator[PrivateRedis]:
    """One that has started; everything of it goes at the end."""
    with tempfile.TemporaryDirectory(prefix="tf-redis-") as folder:
        made = PrivateRedis(Path(folder), *options, password=password, sentinel_of=sentinel_of)
        try:
            made.start()
            yield made
        finally:
            made.stop()
