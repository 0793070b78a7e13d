"""``toolfleet profile``: the profiles of the settings, and whether this machine can serve them."""

import asyncio
import secrets
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from toolfleet.backends import registry
from toolfleet.backends.base import Owner, Request
from toolfleet.config.contract import new_id
from toolfleet.config.errors import ToolfleetError
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Settings, load
from toolfleet.workers.live import profile_of


@click.group()
def profile() -> None:
    """See to the profiles of the settings."""


@profile.command()
@click.argument("names", nargs=-1)
def check(names: tuple[str, ...]) -> None:
    """Start a sandbox of each profile, or of those named, run a command in it, and destroy it.

    Exit status 1 when one cannot be served here; the reason says what to change. An image that is missing is pulled.

    \b
    Examples:
      toolfleet profile check
      toolfleet profile check swe
    """
    settings = load()
    chosen = {name: profile_of(settings, name) for name in names or settings.profiles}
    table = Table("profile", "backend", "verdict", "detail")
    verdicts = asyncio.run(_try_all(settings, chosen))
    for name, (good, detail) in verdicts.items():
        table.add_row(name, chosen[name].backend, "[green]good[/]" if good else "[red]refused[/]", detail)
    Console().print(table)
    raise SystemExit(0 if all(good for good, _ in verdicts.values()) else 1)


async def _try_all(settings: Settings, profiles: dict[str, Profile]) -> dict[str, tuple[bool, str]]:
    """Whether each can be served, and how long its sandbox took or why there is none."""
    # A folder and an owner of their own: nothing of a fleet that runs here is touched.
    owner = Owner(settings.fleet, f"profile-{secrets.token_hex(3)}")
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        return {name: await _try(profile, owner, Path(folder)) for name, profile in profiles.items()}


async def _try(profile: Profile, owner: Owner, folder: Path) -> tuple[bool, str]:
    try:
        backend = registry.load(profile.backend, folder)
        try:
            await backend.probe()
            began = time.monotonic()
            sandbox = await backend.create(profile, owner)
            try:
                outcome = await sandbox.run(Request(new_id("check"), "exec", {"command": "true"}, 30.0))
            finally:
                await sandbox.close()
        finally:
            await backend.shutdown()
    except ToolfleetError as error:
        return False, str(error)
    if outcome.exit_code:
        return False, f"`true` ended with {outcome.exit_code}: {outcome.stderr.decode(errors='replace').strip()}"
    return True, f"ready after {time.monotonic() - began:.2f} s"
