"""The terminal of the first predecessor: a VM of MorphCloud for each task, now a sandbox of the profile ``hecate``."""

import os

from toolfleet.config.errors import SettingsError, ToolfleetError
from toolfleet.config.hecate import PROFILE, default_profile, lacking
from toolfleet.config.settings import Settings, load
from toolfleet.producer.adapters.rollouts import DEFAULT_TASK, CleanupReport, RolloutConfig
from toolfleet.producer.adapters.shapes import as_json
from toolfleet.producer.adapters.shapes.hecate import hecate, hecate_disabled, hecate_failure
from toolfleet.producer.adapters.shared import Shared

#: Seconds that a command may run when the call names no timeout.
TIMEOUT = 120.0

#: What a model is told of this terminal.
DESCRIPTION = (
    "Run a shell command on a Debian machine with internet access that is yours alone. Files persist between calls; "
    "environment variables and activated virtual environments do not. Programs that ask for input get none."
)


def hecate_settings() -> Settings:
    """The settings, with the profile ``hecate``: a private fleet that has none gets the predecessor's.

    Raises:
        SettingsError: they are wrong.
    """
    settings = load()
    if settings.redis_url is not None or PROFILE in settings.profiles:
        return settings
    return load(profiles={PROFILE: default_profile(os.environ)})


#: The fleet behind `terminal_hecate_tool`, connected at its first call.
HECATE = Shared(hecate_settings, RolloutConfig(profile=PROFILE))


def check_hecate_requirements() -> bool:
    """Whether the terminal can work here. With a ``redis_url`` it is the workers that need an SDK and a key."""
    return not _why_disabled()


def terminal_hecate_tool(
    command: str, background: bool = False, timeout: float | None = None, task_id: str | None = None
) -> str:
    """Run ``command`` in the sandbox of ``task_id``; JSON text with ``output``, ``exit_code`` and ``error``.

    Blocks. It never raises for what becomes of the command, and runs it at most once.
    """
    if why := _why_disabled():
        return as_json(hecate_disabled(why))
    arguments = {"command": command, "background": True} if background else {"command": command}
    try:
        rollouts = HECATE.get()
        call = rollouts.call(task_id or DEFAULT_TASK, "terminal", arguments, timeout=timeout or TIMEOUT)
        return as_json(hecate(rollouts.bridge.wait(call), arguments))
    except ToolfleetError as error:
        return as_json(hecate_failure(error))


def cleanup_vm(task_id: str | None = None) -> CleanupReport | None:
    """End the sandbox of ``task_id``, and what runs in it; None when no call was made in this process."""
    rollouts = HECATE.current()
    if rollouts is None:
        return None
    return rollouts.bridge.wait(rollouts.release(task_id or DEFAULT_TASK))


def _why_disabled() -> str:
    try:
        settings = hecate_settings()
    except SettingsError as error:
        return str(error)
    return "" if settings.redis_url is not None else lacking(settings.profile(PROFILE), os.environ)
