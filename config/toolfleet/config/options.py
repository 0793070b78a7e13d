"""Options of a profile that only one backend understands."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

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
