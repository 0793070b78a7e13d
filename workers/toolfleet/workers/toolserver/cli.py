"""``toolfleet tool-server``."""

import importlib.util
import ipaddress
import logging
import sys

import click

from toolfleet.config.errors import SettingsError
from toolfleet.config.settings import load

#: Seconds that a connection nobody uses is kept: more than clients keep theirs.
KEEPALIVE = 30


@click.command("tool-server")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9002, show_default=True, help="Port to listen on.")
@click.option("--loglevel", default="WARNING", show_default=True, help="Least severe messages to log.")
def tool_server(host: str, port: int, loglevel: str) -> None:
    """Run external tools for the workers of fleets, until SIGTERM or Ctrl-C.

    It asks for the token of TOOLFLEET_TOOL_SERVER_TOKEN (or TOOL_SERVER_TOKEN), and only runs without one where no
    other machine reaches it. Workers find it by TOOLFLEET_TOOL_SERVER_URL.

    \b
    Examples:
      toolfleet tool-server
      TOOLFLEET_TOOL_SERVER_TOKEN=secret toolfleet tool-server --host 0.0.0.0
    """
    settings = load()
    for module in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise SettingsError("the ToolServer is not installed: pip install 'toolfleet[server]'")
    if settings.tool_server_token is None and not _is_loopback(host):
        raise SettingsError(f"other machines reach {host}: set TOOLFLEET_TOOL_SERVER_TOKEN, or listen on 127.0.0.1")
    import uvicorn

    from toolfleet.config.tools import own_tools
    from toolfleet.workers.toolserver.app import create_app
    from toolfleet.workers.toolserver.serving import hosting

    logging.basicConfig(level=loglevel.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    own_tools(settings)  # what is wrong with them is said here, in a sentence
    app = create_app(lambda: hosting(settings), settings.tool_server_token)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=loglevel.lower(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEPALIVE,
        timeout_graceful_shutdown=int(settings.drain_timeout),
    )
    server = uvicorn.Server(config)
    server.run()
    sys.exit(0 if server.started else 3)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
