"""Serves an app over HTTP until a signal comes; what is under way then may end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from toolfleet.config.errors import SettingsError

#: Seconds that an idle connection is kept; longer than clients keep theirs, or they would meet it as it closes.
KEEP_ALIVE = 75


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `serve`'s: raised again after the end, they would break off what is still to be closed."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections already; port 0 takes a free one.

    Raises:
        SettingsError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    # Inherited by connections. An answer leaves in two writes, and the second must not wait for the first's receipt.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def server(app: FastAPI, patience: float) -> uvicorn.Server:
    """A server that ends when its ``should_exit`` is set; requests under way get ``patience`` seconds then."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(patience)),
        ws="none",
    )
    return _Server(config)


async def serve(app: FastAPI, listening: socket.socket, patience: float) -> None:
    """Serve until SIGINT or SIGTERM.

    After it no connection is taken any more, and requests get ``patience`` seconds to end; a second signal ends them.
    """
    serving, loop = server(app, patience), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.handle_exit, number, None)
    try:
        await serving.serve(sockets=[listening])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
