"""``toolfleet executor``."""

import asyncio
import importlib.util
import ipaddress
from typing import Literal

import click
import uvloop

from toolfleet.config import settings, tool_executor
from toolfleet.config.errors import SettingsError
from toolfleet.config.tool_executor import ToolExecutorVariables
from toolfleet.producer.adapters.tool_backend import FleetToolBackend
from toolfleet.producer.adapters.tool_executor import ToolExecutor, ToolExecutorConfig

Contract = Literal["executor", "sandbox", "managed"]
#: Where each listens; the first two are the predecessor's.
PORTS: dict[Contract, int] = {"executor": 9001, "sandbox": 8080, "managed": 9002}


@click.command()
@click.option(
    "--contract",
    type=click.Choice(list(PORTS)),
    default="executor",
    show_default=True,
    help="Whose routes: the ToolExecutor server's, the sandbox server's, or those of managed sandboxes.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a token.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on [default: 9001, 8080 or 9002]")
@click.option("--profile", default="default", show_default=True, help="Environment that the trajectories run in.")
@click.option("--sweep", default="default", show_default=True, help="Population that they belong to.")
@click.option("--workers", type=click.IntRange(1, 64), help="Embedded worker processes [default: 1]")
@click.option("--slots", type=click.IntRange(1, 10_000), help="Slots of an embedded worker, or of the sandbox server.")
@click.option("--drain", default=30.0, show_default=True, type=click.FloatRange(1, 3600), help="Seconds to end calls.")
def executor(
    contract: Contract,
    host: str,
    port: int | None,
    profile: str,
    sweep: str,
    workers: int | None,
    slots: int | None,
    drain: float,
) -> None:
    """Serve an Atropos environment over HTTP until SIGTERM or Ctrl-C.

    Without TOOLFLEET_REDIS_URL a private Redis and the workers are started, and nothing is left of them. The variables
    TOOL_EXECUTOR_* of the predecessor are read; those without a meaning are named.

    The first signal lets requests end (--drain), a second one does not wait.

    \b
    Examples:
      toolfleet executor
      TOOLFLEET_REDIS_URL=redis://fleet:6379 TOOL_EXECUTOR_TOKEN=secret toolfleet executor --host 0.0.0.0
      toolfleet executor --contract sandbox --slots 16
    """
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise SettingsError("the HTTP fronts are not installed: pip install 'toolfleet[server]'")
    variables = tool_executor.load()
    for name in variables.meaningless():
        click.echo(f"{name} has no meaning for a fleet and changes nothing", err=True)
    if variables.token is None and not _loopback(host):
        raise SettingsError(f"listening on {host} lets others in: set TOOL_EXECUTOR_TOKEN, or take --host 127.0.0.1")
    slots = slots or variables.slots
    known = settings.load()
    if known.redis_url is None:
        known = settings.load(slots=slots)
        known.profile(profile)  # our own workers serve what we have: a wrong name is best told before they start
    backend = FleetToolBackend(known, profile=profile, sweep=sweep, workers=workers or variables.min_containers)
    port = PORTS[contract] if port is None else port
    uvloop.run(_serve(contract, backend, variables, slots, host, port, drain))


async def _serve(
    contract: Contract,
    backend: FleetToolBackend,
    variables: ToolExecutorVariables,
    slots: int,
    host: str,
    port: int,
    drain: float,
) -> None:
    from toolfleet.producer.fronts.executor import executor_app
    from toolfleet.producer.fronts.managed import managed_app
    from toolfleet.producer.fronts.sandbox import sandbox_app
    from toolfleet.producer.fronts.serve import listen, serve

    config = ToolExecutorConfig(
        allow_network=variables.allow_network,
        tool_server_url=variables.tool_server_url,
        tool_server_token=variables.tool_server_token,
    )
    with listen(host, port) as listening:
        serving = ToolExecutor(backend, config)
        await serving.start()
        try:
            apps = {
                "executor": lambda: executor_app(serving, variables.token),
                "sandbox": lambda: sandbox_app(serving, slots, variables.token),
                "managed": lambda: managed_app(serving, variables.token),
            }
            address = f"[{host}]" if ":" in host else host
            click.echo(f"{contract} on http://{address}:{listening.getsockname()[1]}", err=True)
            await serve(apps[contract](), listening, drain)
        finally:
            # Shielded: a signal that comes while we close must not leave sandboxes behind.
            await asyncio.shield(serving.close(patience=1.0))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
