"""Settings: typed, frozen, read once from the environment and one TOML file.

Order, the first that speaks wins: arguments, ``TOOLFLEET_*`` variables (``__`` goes one level down), the TOML file
named by ``TOOLFLEET_CONFIG`` or else ``./toolfleet.toml``, defaults. A key that does not exist is refused by name.
"""

import difflib
import os
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError as NotJson

from toolfleet.config import hecate, tool_server
from toolfleet.config.contract import Name
from toolfleet.config.errors import SettingsError
from toolfleet.config.profile import Profile

#: A range of addresses, e.g. ``10.1.0.0/16``.
Network = IPv4Network | IPv6Network
#: Name of a Python module.
Module = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]

PREFIX = "TOOLFLEET_"
CONFIG_VARIABLE = "TOOLFLEET_CONFIG"
DEFAULT_FILE = "toolfleet.toml"


class Retries(BaseModel):
    """How failures before a call's start are retried; a call that started never is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max: int = Field(default=3, ge=0, le=20)
    """Retries after the first try."""
    base: float = Field(default=2.0, ge=0)
    """Seconds before the first retry; doubled for each further one."""
    cap: float = Field(default=60.0, ge=0)
    """Longest wait between two tries, in seconds."""
    jitter: float = Field(default=0.5, ge=0)
    """Up to so many seconds are added at random, so that many calls do not retry in step."""


class Breaker(BaseModel):
    """When a fleet stops trying to start sandboxes that fail again and again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failures: int = Field(default=8, ge=0)
    """Failures in a row, over all workers and for one kind of sandbox, that open it; 0 for never."""
    pause: float = Field(default=5.0, gt=0)
    """Seconds for which nobody tries then; doubled for each further failure."""
    cap: float = Field(default=120.0, gt=0)
    """Longest such pause, in seconds."""


class Settings(BaseSettings):
    """Everything that can be set, for producers and workers alike."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    redis_url: SecretStr | None = None
    """``redis://``, ``rediss://`` (TLS), ``unix://`` or ``sentinel://host,host2/master``; None starts a private one."""
    fleet: Name = "default"
    """Name of the fleet; fleets on one Redis never meet."""
    profiles: dict[Name, Profile] = {"default": Profile()}
    """Named environments. A worker serves the profiles it has."""
    heartbeat: float = Field(default=2.0, gt=0, le=60)
    """Seconds between two heartbeats of a worker or producer."""
    lease_ttl: float = Field(default=10.0, gt=0, le=600)
    """Seconds without a heartbeat after which a worker's leases may go to another."""
    runner_grace: float = Field(default=50.0, ge=0)
    """Seconds beyond ``lease_ttl`` after which a runner that hears nothing ends its sandbox."""
    orphan_timeout: float = Field(default=60.0, ge=0)
    """Seconds a trajectory outlives its producer's heartbeat."""
    wait_timeout: float = Field(default=600.0, gt=0)
    """Seconds a trajectory may wait for a slot before `FleetSaturated`."""
    waiting_room: int = Field(default=100_000, ge=0)
    """Trajectories that may wait for a slot of one profile at once."""
    start_timeout: float = Field(default=120.0, gt=0)
    """Seconds beyond its own timeout that a call may take to be carried, started and answered."""
    call_ttl: float = Field(default=21_600.0, gt=0)
    """Seconds that Redis keeps an open call, a lease and an archive."""
    result_ttl: float = Field(default=600.0, gt=0)
    """Seconds that Redis keeps a result."""
    max_payload: int = Field(default=64 * 1024 * 1024, gt=0)
    """Bytes that the JSON of one call may have, or one archive."""
    worker: Name | None = None
    """Name of this worker, unique in the fleet; None takes the host's name and four random digits."""
    slots: int = Field(default=8, ge=1, le=10_000)
    """Sandboxes that one worker serves at once."""
    concurrent_starts: int = Field(default=4, ge=1)
    """Sandboxes of one backend that one worker creates at once."""
    drain_timeout: float = Field(default=10.0, ge=0)
    """Seconds that a stopping worker gives its trajectories to go to another worker, or to end."""
    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    runtime_dir: Path | None = None
    """Where sockets of sandboxes live; None takes ``$XDG_RUNTIME_DIR`` or ``/run`` or ``/tmp``."""

    tools: tuple[Module, ...] = ()
    """Python modules with tools of your own, see ``toolfleet.config.tools.tool``."""
    tool_server_url: str | None = None
    """Where external tools run: ``http://`` or ``https://``, or ``inprocess``; None: there are no external tools."""
    tool_server_token: SecretStr | None = None
    """What the ToolServer asks for; None: it asks for nothing."""
    tool_server_concurrency: int = Field(default=16, ge=1, le=1000)
    """External calls that one ToolServer runs at once, and connections that one worker has to it."""
    tool_server_allow: tuple[Network, ...] = ()
    """Addresses beside public ones that the web tools of a ToolServer may connect to."""

    @model_validator(mode="before")
    @classmethod
    def _tool_server_of_the_predecessor(cls, values: dict[str, Any]) -> dict[str, Any]:
        return tool_server.complete(values, os.environ)

    @field_validator("tool_server_url")
    @classmethod
    def _url_of_a_server(cls, url: str | None) -> str | None:
        return tool_server.check(url)

    @field_validator("redis_url", "tool_server_token", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @field_validator("profiles")
    @classmethod
    def _of_the_predecessor(cls, profiles: dict[str, Profile]) -> dict[str, Profile]:
        return {name: hecate.complete(profile, os.environ) for name, profile in profiles.items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file."""
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if path := _config_file():
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=path))
        return tuple(sources)

    def profile(self, name: str) -> Profile:
        """The profile ``name``.

        Raises:
            SettingsError: there is none of that name.
        """
        try:
            return self.profiles[name]
        except KeyError:
            raise SettingsError(f"no profile named {name!r}.{_did_you_mean(name, self.profiles)}") from None


#: The settings that have keys below them, and what these keys are.
_NESTED: dict[str, type[BaseModel]] = {"profiles": Profile, "retries": Retries, "breaker": Breaker}


def load(**overrides: Any) -> Settings:
    """Read the settings; ``overrides`` that are None count as not given.

    Raises:
        SettingsError: an unknown key, a value of the wrong kind, or a file that cannot be read.
    """
    _refuse_unknown_variables()
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(map(_explain, error.errors(include_url=False, include_input=False)))) from None
    except NotJson as error:
        hint = "it takes JSON, or one variable for each key below it with `__` in between"
        raise SettingsError(f"environment variable: {error}; {hint}") from None
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {_config_file()}: {error}") from None


def _config_file() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise SettingsError(f"{CONFIG_VARIABLE} names {named!r}, which is not a file")
        return path
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def _refuse_unknown_variables() -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields} | {CONFIG_VARIABLE}
    for variable in os.environ:
        if not variable.startswith(PREFIX) or variable in known:
            continue
        field, *below = variable.removeprefix(PREFIX).split("__")
        if not below or field.lower() not in _NESTED or not field.isupper():
            raise SettingsError(f"unknown environment variable {variable}.{_did_you_mean(variable, known)}")


def _explain(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"setting {where}: {error['msg']}"
    model = _model_at(error["loc"][:-1])
    return f"unknown setting {where}.{_did_you_mean(str(error['loc'][-1]), model.model_fields)}"


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    model = _NESTED.get(str(loc[0]), Settings) if loc else Settings
    for key in loc[1:]:
        field = model.model_fields.get(str(key))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return model


def _did_you_mean(wrong: str, known: Any) -> str:
    nearest = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else f" Known: {', '.join(sorted(known))}."
