"""A profile: the named environment in which trajectories run."""

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from toolfleet.config.options import AbsolutePath, DockerOptions, ModalOptions, MorphOptions

MIB = 1024 * 1024

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Profile(BaseModel):
    """What a sandbox is made of, what it may use, and how many wait warm.

    Every limit is enforced or refused by the backend, never dropped in silence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str = "bubblewrap"
    """Short name of a backend, see ``toolfleet.backends.registry``."""
    rootfs: AbsolutePath | None = None
    """An unpacked root filesystem used read-only as the base; None takes the host's ``/usr``."""
    image: str | None = Field(default=None, min_length=1)
    """Name of a container image, or id of a snapshot, for backends that take one."""
    network: Literal["none", "host", "internal", "bridge"] = "none"
    """``none``: a loopback interface and nothing else. ``internal``: an interface of its own that leads nowhere.
    ``bridge``: a way out, but none to other sandboxes. ``host``: the host's own network."""
    cpu: float | None = Field(default=None, gt=0)
    """Cores that all processes of a sandbox may use together; None sets no limit."""
    memory_mib: int = Field(default=1024, ge=32)
    """Memory of all processes of a sandbox together, in MiB."""
    disk_mib: int = Field(default=512, ge=8)
    """What a sandbox may write to its file system, in MiB."""
    storage: Literal["memory", "disk"] = "memory"
    """Where those files live: ``memory`` (tmpfs) is fastest and needs no privilege; ``disk`` is an ext4 image of
    ``disk_mib``, for workspaces larger than memory or programs that care which file system they see."""
    pids: int = Field(default=256, ge=8)
    """Processes and threads alive at once."""
    env: dict[EnvName, str] = {}
    """Environment variables added to the clean default ones."""
    workdir: AbsolutePath = "/"
    """Where a command starts when the call names no ``workdir``."""
    default_timeout: float = Field(default=120.0, gt=0)
    """Seconds a call may run when it names no timeout of its own."""
    max_timeout: float = Field(default=600.0, gt=0)
    """Longest timeout that a call may ask for, in seconds; longer ones are cut to it."""
    tools: tuple[str, ...] | None = None
    """Names of the tools that calls may use; None allows all. Another is rejected, whatever a model asks."""
    warm: int = Field(default=2, ge=0)
    """Ready sandboxes that a worker keeps waiting beside those in its slots."""
    warm_age: float = Field(default=3600.0, gt=0)
    """Seconds after which a ready sandbox that nobody took is replaced."""
    fleet_starting: int = Field(default=0, ge=0)
    """Sandboxes of this kind that all workers together start at once; 0 for no bound."""
    fleet_start_rate: float = Field(default=0.0, ge=0)
    """Sandboxes of this kind that all workers together start in a second; 0 for no bound."""
    idle_timeout: float = Field(default=3600.0, gt=0)
    """Seconds without a call after which a trajectory is closed, unless a process runs in its sandbox."""
    max_lifetime: float = Field(default=86_400.0, gt=0)
    """Seconds after which a workspace is closed whatever runs in it, as soon as no call is in flight."""
    docker: DockerOptions = DockerOptions()
    """What only the backend ``docker`` understands."""
    modal: ModalOptions = ModalOptions()
    """What only the backend ``modal`` understands."""
    morph: MorphOptions = MorphOptions()
    """What only the backend ``morph`` understands."""

    def foreign_options(self, backend: str) -> list[str]:
        """The fields of this profile that only other backends than ``backend`` understand, and that say something."""
        return [
            name
            for name in _OPTIONS
            if name != backend and getattr(self, name) != type(self).model_fields[name].get_default()
        ]

    @property
    def reusable(self) -> int:
        """How many used sandboxes may wait beside the warm ones for another trajectory."""
        return self.modal.pool_max if self.backend == "modal" and self.modal.pooled else 0

    @property
    def spec_hash(self) -> str:
        """Identity of the sandbox that this profile describes; pools never mix two of them."""
        spec = self.model_dump_json(include=_SPEC_FIELDS)
        return hashlib.sha256(spec.encode()).hexdigest()[:16]


#: The fields that hold the options of the backend of that name.
_OPTIONS = ("docker", "modal", "morph")
#: The fields that make one sandbox differ from another; the rest is policy around it.
_SPEC_FIELDS = {
    "backend",
    "rootfs",
    "image",
    "network",
    "cpu",
    "memory_mib",
    "disk_mib",
    "storage",
    "pids",
    "env",
    "workdir",
    *_OPTIONS,
}
