"""The SDK's client, kept off the event loop: calls run on threads, end in bounded time, and fail with our errors."""

import asyncio
import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from toolfleet.config.errors import BackendUnavailable

if TYPE_CHECKING:
    from docker import APIClient
    from docker.tls import TLSConfig

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Where the engine listens when ``DOCKER_HOST`` does not say.
DEFAULT_HOST = "unix:///var/run/docker.sock"
#: Seconds that one answer of the engine may take.
PATIENCE = 60.0
#: The oldest version of the API that has all we ask for; the engine's own is taken when it is known.
_OLDEST = "1.40"
#: Calls under way at once; the engine works on containers one core each, and more only queue up there.
_THREADS = 16


class EngineError(Exception):
    """The engine has refused; ``status`` is that of HTTP, the message is the engine's own words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class NotFound(EngineError):
    """What was named does not exist."""


class Conflict(EngineError):
    """Not in this state, or it exists already."""


class EngineGone(Exception):
    """The engine does not answer."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the engine is, from the environment variables that every Docker tool knows."""

    url: str
    tls: "TLSConfig | None" = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        """The engine shares this machine's kernel and files."""
        return self.url.startswith("unix://")

    @property
    def path(self) -> str:
        """The socket of a local engine."""
        return "/" + self.url.removeprefix("unix://").lstrip("/")


class Engine:
    """One engine, as seen by one process.

    The client is made on first use and again after a fork: processes that shared one would read each other's answers.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._client: APIClient | None = None
        self._endpoint: Endpoint | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._connecting = asyncio.Lock()

    async def endpoint(self) -> Endpoint:
        """Where the engine is.

        Raises:
            BackendUnavailable: the SDK is not installed, or the variables contradict each other.
        """
        self._after_fork()
        if self._endpoint is None:
            self._endpoint = await asyncio.to_thread(_endpoint)
        return self._endpoint

    async def version(self) -> str:
        """The version of the API that both sides speak."""
        return str((await self._connected()).api_version)

    async def call(self, work: "Callable[[APIClient], T]", within: float = PATIENCE) -> T:
        """Do ``work`` with the client on a thread and return what it returns.

        Raises:
            NotFound, Conflict, EngineError: the engine has answered so.
            EngineGone: it has not, within ``within`` seconds; the call may still take effect there.
            BackendUnavailable: the SDK is not installed.
        """
        client = await self._connected()
        return await self._on_thread(lambda: work(client), within)

    async def inspect_image(self, name: str) -> dict[str, Any]:
        """What the engine knows of an image.

        Raises:
            NotFound, EngineError, EngineGone: see `call`.
        """
        return await self.call(lambda client: client.inspect_image(name))  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Let go of client and threads; the next call makes new ones."""
        client, threads, pid = self._client, self._threads, self._pid
        self._client = self._threads = None
        if pid != os.getpid():
            return
        if client is not None:
            await asyncio.to_thread(client.close)
        if threads is not None:
            threads.shutdown(wait=False)

    async def _connected(self) -> "APIClient":
        endpoint = await self.endpoint()
        async with self._connecting:
            if self._client is None:
                self._client = await self._on_thread(lambda: _connect(endpoint), PATIENCE)
            return self._client

    async def _on_thread(self, work: Callable[[], T], within: float) -> T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        try:
            async with asyncio.timeout(within):
                return await asyncio.get_running_loop().run_in_executor(self._threads, _translated, work)
        except TimeoutError:
            raise EngineGone(f"the Docker engine has not answered within {within:.0f} s") from None

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._client = self._threads = self._endpoint = None
            self._connecting = asyncio.Lock()


def _sdk() -> Any:
    try:
        return importlib.import_module("docker")
    except ImportError as error:
        raise BackendUnavailable(
            f"the backend docker needs its SDK: pip install 'toolfleet[docker]' ({error})"
        ) from None


def _endpoint() -> Endpoint:
    sdk = _sdk()
    try:
        kwargs = sdk.utils.kwargs_from_env()
    except sdk.errors.DockerException as error:
        raise BackendUnavailable(f"DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH do not fit: {error}") from error
    url = kwargs.get("base_url") or DEFAULT_HOST
    return Endpoint(url, kwargs.get("tls") or None)


def _connect(endpoint: Endpoint) -> "APIClient":
    sdk = _sdk()
    if endpoint.local:
        # Knock first: a client that nobody answers leaves its sockets to the garbage collector.
        with socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(PATIENCE)
            knock.connect(endpoint.path)
    asked = _client(sdk, endpoint, _OLDEST)
    try:
        version = asked.version(api_version=False)["ApiVersion"]
    finally:
        asked.close()
    return _client(sdk, endpoint, version)


def _client(sdk: Any, endpoint: Endpoint, version: str) -> "APIClient":
    # Over SSH, the ssh of this machine: it knows the user's keys, agents and known hosts.
    ssh = {"use_ssh_client": True} if endpoint.url.startswith("ssh://") else {}
    client: APIClient = sdk.APIClient(
        base_url=endpoint.url,
        tls=endpoint.tls or False,
        version=version,
        timeout=PATIENCE,
        max_pool_size=_THREADS,
        **ssh,
    )
    # Variables for the web (REQUESTS_CA_BUNDLE, HTTPS_PROXY) would replace the engine's own authority.
    client.trust_env = False
    return client


def _translated(work: Callable[[], T]) -> T:
    sdk = _sdk()
    requests = importlib.import_module("requests")
    try:
        return work()
    except sdk.errors.APIError as error:
        status = error.response.status_code if error.response is not None else 500
        words = str(error.explanation or error)
        kind = {404: NotFound, 409: Conflict}.get(status, EngineError)
        raise kind(status, words) from None
    except (sdk.errors.DockerException, requests.RequestException, OSError) as error:
        raise EngineGone(_words(error)) from None


def _words(error: Exception) -> str:
    """The innermost reason: what the SDK and its HTTP library wrap around it says nothing more."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    with contextlib.suppress(AttributeError):
        return f"{inner.strerror}" if inner.strerror else str(inner)  # type: ignore[attr-defined]
    return str(inner)
