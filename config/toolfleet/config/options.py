"""Options of a profile that only one backend understands."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$")]


class DockerOptions(BaseModel):
    """What the backend ``docker`` takes beyond the fields of every profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = None
    """User, or ``user:group``, that commands run as. None takes the image's, or ``nobody`` where that would be root."""
    runtime: str | None = None
    """Runtime of the engine, e.g. ``runsc`` (gVisor) or ``kata``; None takes the engine's default."""
    writable: tuple[AbsolutePath, ...] = ("/tmp", "/var/tmp", "/run", "/work")  # noqa: S108 - in the sandbox
    """With ``storage = "memory"``: where the sandbox may write. Each is an empty file system of ``disk_mib`` that hides
    what the image has there; the rest of the image is read-only."""
    unlimited_disk: bool = False
    """With ``storage = "disk"``: do without the limit of ``disk_mib`` where the engine can hold none."""
    pull: Literal["missing", "never"] = "missing"
    """Whether an image that the engine lacks is pulled."""
    transport: Literal["auto", "socket", "relay"] = "auto"
    """How the worker reaches the runner: ``socket`` through a socket on this machine, ``relay`` through one exec of the
    engine, which works from anywhere. ``auto`` takes the socket where engine and runtime allow it."""


class ModalOptions(BaseModel):
    """What the backend ``modal`` takes beyond the fields of every profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: str | None = None
    """GPU of a sandbox, as Modal names it, e.g. ``T4`` or ``H100:2``."""
    cloud: str | None = None
    """Cloud provider to run on; None leaves it to Modal."""
    region: tuple[str, ...] = ()
    """Regions to run in; empty leaves it to Modal."""
    secrets: tuple[str, ...] = ()
    """Names of secrets in Modal whose variables commands get. Their values never pass through the fleet."""
    volumes: dict[AbsolutePath, str] = {}
    """Volumes of Modal by the path where they are mounted. They outlive sandboxes and are shared between them."""
    registry_secret: str | None = None
    """Name of the secret in Modal that opens a private registry."""
    outbound_cidrs: tuple[str, ...] | None = None
    """With ``network = "bridge"``: the only addresses that can be reached, as CIDR blocks; None allows all."""
    outbound_domains: tuple[str, ...] | None = None
    """With ``network = "bridge"``: the only names that can be reached, by TLS; None allows all."""
    max_lifetime: int = Field(default=86_400, ge=10, le=86_400)
    """Seconds from its creation after which Modal ends a sandbox, whatever it does. It cannot be prolonged."""
    idle_timeout: int = Field(default=600, ge=10)
    """Seconds without any connection to it after which Modal ends a sandbox: the backstop for those that nobody has."""
    unlimited_disk: bool = False
    """Do without the limit of ``disk_mib``, which Modal cannot hold."""
