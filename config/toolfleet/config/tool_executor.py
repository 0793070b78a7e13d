"""Variables of the predecessor's ToolExecutor server, which go on working where they have a meaning."""

from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from toolfleet.config.errors import SettingsError

PREFIX = "TOOL_EXECUTOR_"


class ToolExecutorVariables(BaseSettings):
    """``TOOL_EXECUTOR_*``, from the environment or a file ``.env`` in the working directory."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    token: SecretStr | None = None
    """Bearer token that clients must bring; None lets everybody in, and listens on this machine only."""
    slots: int = Field(default=10, ge=1, le=10_000)
    """Sandboxes of one worker of an embedded fleet; slots of the sandbox server."""
    min_containers: int = Field(default=1, ge=1, le=64)
    """Worker processes of an embedded fleet."""
    allow_network: bool = True
    """False refuses a profile whose sandboxes reach a network."""
    tool_server_url: str | None = None
    """Where external tools run; workers call it."""
    tool_server_token: SecretStr | None = None
    """Bearer token of that server."""

    # Taken, so that an environment may go on setting them; a fleet has no use for them.
    nomad_address: str | None = None
    job_id: str | None = None
    image: str | None = None
    max_containers: str | None = None
    privileged: str | None = None
    acquire_timeout_s: str | None = None
    batch_window_ms: str | None = None
    max_batch_size: str | None = None
    purge_job_on_shutdown: str | None = None

    @field_validator("token", "tool_server_url", "tool_server_token", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    def meaningless(self) -> list[str]:
        """The variables that are set and change nothing."""
        return [f"{PREFIX}{name.upper()}" for name in MEANINGLESS if getattr(self, name) is not None]


#: What Nomad, its job and the batches of the predecessor were told.
MEANINGLESS = (
    "nomad_address",
    "job_id",
    "image",
    "max_containers",
    "privileged",
    "acquire_timeout_s",
    "batch_window_ms",
    "max_batch_size",
    "purge_job_on_shutdown",
)


def load() -> ToolExecutorVariables:
    """Read them.

    Raises:
        SettingsError: one has a value that it does not take; the message names it.
    """
    try:
        return ToolExecutorVariables()
    except ValidationError as error:
        raise SettingsError("\n".join(map(_explain, error.errors(include_url=False, include_input=False)))) from None


def _explain(error: Any) -> str:
    return f"{PREFIX}{'.'.join(map(str, error['loc'])).upper()}: {error['msg']}"
