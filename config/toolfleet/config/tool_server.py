"""Where the ToolServer is, as settings say it, and as variables of its predecessor do."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

#: Instead of a URL: every worker runs a ToolServer in its own process.
IN_PROCESS = "inprocess"

#: Setting to the variables of the predecessor that it stands for, the first that is there.
_VARIABLES = {
    "tool_server_url": ("TOOL_EXECUTOR_TOOL_SERVER_URL",),
    "tool_server_token": ("TOOL_EXECUTOR_TOOL_SERVER_TOKEN", "TOOL_SERVER_TOKEN"),
    "tool_server_concurrency": ("TOOL_SERVER_MAX_CONCURRENCY",),
}


def complete(values: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """``values`` of settings, with what they leave out taken from the environment."""
    found = {
        setting: value
        for setting, variables in _VARIABLES.items()
        if values.get(setting) is None and (value := next(filter(None, map(environment.get, variables)), None))
    }
    return {**values, **found}


def check(url: str | None) -> str | None:
    """A URL that a client can use, without a slash at its end; nothing for an empty one.

    Raises:
        ValueError: it is none; the message says what is missing.
    """
    if not url or url == IN_PROCESS:
        return url or None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"give http://host:port, https://host, or {IN_PROCESS!r}")
    if parts.username or parts.password:
        raise ValueError("a URL is shown in messages: put the secret into tool_server_token")
    return url.rstrip("/")
