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
    pooled: bool = False
    """Use a sandbox for one trajectory after another, each time reset and proven to be as it was. Commands then have no
    power of root but that over files and users."""
    pool_max: int = Field(default=4, ge=1)
    """Used sandboxes that wait beside the warm ones, with ``pooled``; further ones are destroyed."""
    max_uses: int = Field(default=20, ge=1)
    """Trajectories that a sandbox serves one after another, with ``pooled``."""


class MorphOptions(BaseModel):
    """What the backend ``morph`` takes beyond the fields of every profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ttl: int = Field(default=1200, ge=60)
    """Seconds after which MorphCloud ends a VM by itself, renewed while a worker holds the sandbox."""
    start_timeout: float = Field(default=120.0, gt=0)
    """Seconds until a new VM must be ready."""
    vcpus: int | None = Field(default=None, ge=1)
    """Cores of the VM. With this, or a size below, the VM is booted, which takes longer than to resume its snapshot."""
    vm_memory_mib: int | None = Field(default=None, ge=256)
    """Memory of the VM, in MiB."""
    vm_disk_mib: int | None = Field(default=None, ge=512)
    """Disk of the VM, in MiB."""
    pause_after: float | None = Field(default=None, gt=0)
    """Seconds without a call after which the VM is paused until the next one, with all that runs in it. None: never."""
    prepared_ttl: int = Field(default=7 * 24 * 3600, ge=0)
    """Seconds that a snapshot of ``image`` with the runner in it is kept after its last use; 0 makes none."""
    snapshot_ttl: int = Field(default=24 * 3600, ge=60)
    """Seconds that MorphCloud keeps a snapshot of a sandbox that nobody drops."""
    ssh_login: Literal["instance-key", "api-key"] = "instance-key"
    """``instance-key``: with the key that MorphCloud makes for each VM. ``api-key``: with the account's, as the SDK."""
    ssh_known_hosts: AbsolutePath | None = None
    """File of SSH host keys, one of which MorphCloud's gateway must have; None takes any, as the SDK does."""
