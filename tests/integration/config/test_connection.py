"""What may answer at ``redis_url`` instead of a usable Redis, and that no message about it shows the password."""

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis.exceptions

from toolfleet.config import connection
from toolfleet.config.errors import RedisUnavailable, RedisUnsupported, SettingsError, ToolfleetError
from toolfleet.producer.embedded import find_redis_server

HIDDEN = "hunter2"
Answer = Callable[[bytes], bytes]


@contextlib.asynccontextmanager
async def stub(answer: Answer) -> AsyncIterator[str]:
    """A server that answers each chunk with ``answer(chunk)``; its URL, with a password."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                writer.write(answer(chunk))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://:{HIDDEN}@127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        await server.wait_closed()


def info(text: str, *, hello: bool = True) -> Answer:
    """A Redis that says OK to everything but INFO, and to HELLO if it knows it (6.0 brought it)."""

    def answer(chunk: bytes) -> bytes:
        said = b""
        words = chunk.upper().split(b"\r\n")
        for word in words:
            if word == b"HELLO":
                said += b"%1\r\n$5\r\nproto\r\n:3\r\n" if hello else b"-ERR unknown command `HELLO`\r\n"
            elif word == b"INFO":
                said += b"$%d\r\n%s\r\n" % (len(text), text.encode())
            elif word in (b"CLIENT", b"SELECT", b"PING") or (word == b"AUTH" and b"HELLO" not in words):
                said += b"+OK\r\n"
        return said

    return answer


async def check(url: str, patience: float = 10.0) -> str:
    """Connect and check once, without retries."""
    client = connection.client(url, retries=0)
    try:
        return await connection.check(client, url, patience)
    finally:
        await client.aclose()


async def refusal(kind: type[ToolfleetError], url: str, patience: float = 10.0) -> str:
    """The message of the error; it never shows the password."""
    with pytest.raises(kind) as caught:
        await check(url, patience)
    assert HIDDEN not in f"{caught.value}{caught.value!r}"
    assert caught.value.__suppress_context__ or not caught.value.__context__, "nor does a traceback"
    return str(caught.value)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """The socket of a Redis that wants a password."""
    server = find_redis_server()
    assert server, "conftest has found one for the other tests"
    sock = tmp_path / "guarded.sock"
    options = ["--port", "0", "--unixsocket", str(sock), "--save", "", "--requirepass", HIDDEN, "--dir", str(tmp_path)]
    with subprocess.Popen([server, *options, "--loglevel", "warning"], stdout=subprocess.DEVNULL) as process:
        try:
            while not _listens(sock):
                assert process.poll() is None, "redis-server did not start"
                time.sleep(0.01)
            yield str(sock)
        finally:
            process.terminate()


def _listens(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


async def test_a_usable_redis_tells_its_version(redis_url: str) -> None:
    assert int((await check(redis_url)).split(".")[0]) >= 6


@pytest.mark.parametrize("version", ["6.2.0", "7.4.1", "8.0.0-rc1"])
async def test_new_enough(version: str) -> None:
    async with stub(info(f"# Server\r\nredis_version:{version}\r\n")) as url:
        assert await check(url) == version


@pytest.mark.parametrize("version", ["6.0.16", "6.1", "0"])
async def test_too_old_says_which_it_is_and_which_it_must_be(version: str) -> None:
    async with stub(info(f"# Server\r\nredis_version:{version}\r\n")) as url:
        message = await refusal(RedisUnsupported, url)
    assert version in message
    assert "needs 6.2 or newer" in message


async def test_one_so_old_that_it_does_not_know_hello() -> None:
    async with stub(info("# Server\r\nredis_version:5.0.7\r\n", hello=False)) as url:
        with pytest.raises(RedisUnsupported) as caught:
            await check(url)
    assert "6.2" in str(caught.value)
    assert HIDDEN not in str(caught.value)


async def test_something_that_speaks_the_protocol_but_tells_no_version() -> None:
    async with stub(info("# Server\r\nother:1\r\n")) as url:
        assert "unknown" in await refusal(RedisUnsupported, url)


async def test_a_web_server_is_not_redis() -> None:
    async with stub(lambda _: b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n") as url:
        with pytest.raises((RedisUnsupported, RedisUnavailable)) as caught:
            await check(url)
    assert "127.0.0.1" in str(caught.value)
    assert HIDDEN not in str(caught.value)


async def test_a_server_that_says_nothing_is_not_waited_for_long() -> None:
    async with stub(lambda _: b"") as url:
        assert "does not answer" in await refusal(RedisUnavailable, url, patience=0.2)


async def test_a_server_that_hangs_up() -> None:
    def hang_up(chunk: bytes) -> bytes:
        raise ConnectionResetError

    async with stub(hang_up) as url:
        assert "does not answer" in await refusal(RedisUnavailable, url)


async def test_a_server_that_is_still_loading_its_data() -> None:
    loading = b"-LOADING Redis is loading the dataset in memory\r\n"
    async with stub(lambda chunk: loading * chunk.count(b"*")) as url:
        assert "does not answer" in await refusal(RedisUnavailable, url)


@pytest.mark.parametrize(
    "answer",
    [
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'. script: 5a1b, on @user_script:70.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "LOADING Redis is loading the dataset in memory",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "ERR Error running script (call to f_5a1b): @user_script:62: @user_script: 62: -OOM command not allowed",
    ],
)
async def test_what_passes_is_an_outage(answer: str) -> None:
    async with stub(lambda chunk: f"-{answer}\r\n".encode() * chunk.count(b"*")) as url:
        client = connection.client(url, retries=0)
        with pytest.raises(connection.OUTAGES):
            await client.set("key", "value")
        await client.aclose()


@pytest.mark.parametrize(
    "answer", ["ERR unknown command 'OOM'", "WRONGTYPE Operation against a key", "ERR BUSYGROUP is no such thing"]
)
async def test_a_mistake_is_no_outage(answer: str) -> None:
    async with stub(lambda chunk: f"-{answer}\r\n".encode() * chunk.count(b"*")) as url:
        client = connection.client(url, retries=0)
        with pytest.raises(redis.exceptions.ResponseError):
            await client.set("key", "value")
        await client.aclose()


async def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and not listening: nobody else can be either
        message = await refusal(RedisUnavailable, f"redis://:{HIDDEN}@127.0.0.1:{free.getsockname()[1]}/0")
    assert "Is it running, and redis_url right?" in message


async def test_no_such_host() -> None:
    assert "does not answer" in await refusal(RedisUnavailable, f"redis://:{HIDDEN}@no-such-host.invalid:6379/0")


async def test_no_such_socket(tmp_path: Path) -> None:
    assert "does not answer" in await refusal(RedisUnavailable, f"unix://:{HIDDEN}@{tmp_path}/none.sock")


async def test_the_right_password(guarded: str) -> None:
    assert await check(f"unix://:{HIDDEN}@{guarded}")


@pytest.mark.parametrize("credentials", ["", f":{HIDDEN}-not@", f"nobody:{HIDDEN}-not@"])
async def test_no_password_and_a_wrong_one(credentials: str, guarded: str) -> None:
    message = await refusal(RedisUnavailable, f"unix://{credentials}{guarded}")
    assert "refuses the password" in message
    assert "redis_url" in message


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            f"default:{HIDDEN}@host:6379/0",
            f"http://user:{HIDDEN}@host",
            f"redis://user:{HIDDEN}@host:port",
            f"redis://:{HIDDEN}/more@host:6379",
            f"redis://:more/{HIDDEN}@host:6379",
            f"redis://:{HIDDEN}#more@host",
            f"redis://:more#{HIDDEN}@host",
            f"redis://:{HIDDEN}?more@host",
            f"redis://:more?{HIDDEN}@host",
            f"redis://user:{HIDDEN}@[::1/0",
            f"redis://user:{HIDDEN}@host:99999999",
            f"{HIDDEN}@host",
        ],
    )
    def test_one_that_cannot_be_is_refused_without_its_password(self, url: str) -> None:
        """Most are passwords whose special characters were not encoded."""
        with pytest.raises(SettingsError, match="redis_url") as caught:
            connection.client(url)
        assert HIDDEN not in str(caught.value)
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://host:6379/0", "redis://host:6379/0"),
            (f"redis://:{HIDDEN}@host:6379/0", "redis://***@host:6379/0"),
            (f"rediss://user:{HIDDEN}@host?ssl_cert_reqs=none", "rediss://***@host"),
            (f"redis://user:{HIDDEN}@x@host", "redis://***@host"),
            (f"redis://host/0?password={HIDDEN}", "redis://host/0"),
            (f"redis://host/0?password=x@{HIDDEN}", "redis://***@"),
            (f"unix://:{HIDDEN}@/run/redis.sock?db=1", "unix://***@/run/redis.sock"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ],
    )
    def test_redacted(self, url: str, shown: str) -> None:
        assert connection.redacted(url) == shown

    @pytest.mark.parametrize(
        ("url", "broker"),
        [
            ("redis://:x@host:6379/2", "redis://:x@host:6379/2"),
            ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
            ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ],
    )
    def test_the_url_as_the_transport_writes_it(self, url: str, broker: str) -> None:
        assert connection.broker_url(url) == broker
