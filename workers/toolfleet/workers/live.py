"""``toolfleet doctor --live``: what a backend owes, checked against the real engine or account."""

import contextlib
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from toolfleet.backends import registry
from toolfleet.backends.base import Owner
from toolfleet.backends.conformance import CHECKS, Finding, examine
from toolfleet.config.errors import SettingsError
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Settings

_MARKS = {"holds": "[green]holds[/]   ", "deviates": "[yellow]deviates[/]", "fails": "[red]fails[/]   "}


def profile_of(settings: Settings, name: str) -> Profile:
    """The profile ``name``; for the name of a backend, that backend with the defaults.

    Raises:
        SettingsError: it is neither.
    """
    if name in settings.profiles:
        return settings.profiles[name]
    if name in registry.BACKENDS:
        return Profile(backend=name)
    known = sorted({*settings.profiles, *registry.BACKENDS})
    raise SettingsError(f"{name!r} is no profile and no backend; there are {', '.join(known)}")


async def live(settings: Settings, name: str, checks: Collection[str], console: Console) -> bool:
    """Run ``checks``, or all, in real sandboxes that go again; whether none failed.

    Raises:
        SettingsError: there is no such profile, backend or check.
        BackendUnavailable: the backend cannot be reached; the message says why.
    """
    if unknown := sorted(set(checks) - set(CHECKS)):
        raise SettingsError(f"there is no check {unknown[0]!r}; `toolfleet doctor --live {name}` shows all by name")
    profile, verdicts = profile_of(settings, name), Counter[str]()
    async with contextlib.aclosing(_findings(settings, profile, checks)) as findings:
        async for finding in findings:
            verdicts[finding.verdict] += 1
            words = f"\n           {escape(finding.words)}" if finding.words else ""
            console.print(f"{_MARKS[finding.verdict]} {finding.check.name}{words}")
    console.print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
    return not verdicts["fails"]


async def _findings(settings: Settings, profile: Profile, checks: Collection[str]) -> AsyncGenerator[Finding, None]:
    # A folder and an owner of their own: nothing of a fleet that runs here is touched.
    owner = Owner(settings.fleet, f"doctor-{secrets.token_hex(3)}")
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        backend = registry.load(profile.backend, Path(folder))
        try:
            await backend.probe()
            async for finding in examine(backend, profile, owner, checks or None):
                yield finding
        finally:
            await backend.shutdown()
