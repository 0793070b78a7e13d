"""What a profile says, in Modal's words; and what Modal cannot hold."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolfleet.backends import told
from toolfleet.backends.base import Owner
from toolfleet.backends.modal_cloud.sdk import load
from toolfleet.backends.runner.config import Config
from toolfleet.config.errors import SpecRefused
from toolfleet.config.profile import Profile

if TYPE_CHECKING:
    import modal

#: Where the interpreter of the runner is in a sandbox.
MOUNTED = "/opt/toolfleet"
NETWORKS = frozenset({"none", "bridge"})

#: Memory that Modal grants beyond the profile's: that of the runner, its relays and the file operations under way.
_OVERHEAD_MIB = 256
#: What ids of images begin with; everything else is a registry name.
_IMAGE_ID = "im-"


def check(profile: Profile) -> None:
    """Refuse what Modal cannot do or cannot hold.

    Raises:
        SpecRefused: the message says what to change.
    """
    options = profile.modal
    if profile.image is None:
        raise SpecRefused("the backend modal needs an image: a registry name, or the id of an image of Modal (im-...)")
    if profile.rootfs is not None:
        raise SpecRefused("the backend modal takes no rootfs: publish it as an image, and name that as 'image'")
    if profile.network not in NETWORKS:
        raise SpecRefused(
            f"Modal has no network {profile.network!r}: use 'none', or 'bridge' with modal.outbound_cidrs"
        )
    if profile.network == "none" and (options.outbound_cidrs is not None or options.outbound_domains is not None):
        raise SpecRefused("an allowlist (modal.outbound_...) needs network = 'bridge'")
    if profile.storage != "disk" or not options.unlimited_disk:
        raise SpecRefused(
            "Modal keeps the files of a sandbox on its own disk and limits them to no disk_mib: "
            "say storage = 'disk' and modal.unlimited_disk = true to do without that limit"
        )
    if options.pooled and (options.volumes or options.gpu is not None):
        raise SpecRefused(
            "modal.pooled proves nothing of what a volume or a GPU still holds: do without modal.volumes and "
            "modal.gpu, or without modal.pooled"
        )
    if options.registry_secret is not None and profile.image.startswith(_IMAGE_ID):
        raise SpecRefused(
            "modal.registry_secret is for images of a registry, and 'image' is the id of one that is built"
        )


def image(profile: Profile, origin: str | None, bundle: Path, client: "modal.Client") -> "modal.Image":
    """The image of the profile, or a snapshot of one, with the interpreter in it as a read-only mount.

    Modal keeps files by their SHA-256, so that the interpreter travels once for each account and version.
    """
    sdk = load()
    name = origin or profile.image or ""
    if name.startswith(_IMAGE_ID):
        base: modal.Image = sdk.Image.from_id(name, client)
    else:
        secret = profile.modal.registry_secret
        base = sdk.Image.from_registry(name, secret=secret and sdk.Secret.from_name(secret, client=client))
    return base.add_local_dir(bundle, MOUNTED)


def arguments(profile: Profile, client: "modal.Client") -> dict[str, Any]:
    """The keyword arguments of ``Sandbox.create`` that follow from the profile alone."""
    sdk = load()
    options = profile.modal
    memory = profile.memory_mib + _OVERHEAD_MIB
    volumes = {path: sdk.Volume.from_name(name, client=client) for path, name in options.volumes.items()}
    return {
        "timeout": options.max_lifetime,
        "idle_timeout": options.idle_timeout,
        "cpu": None if profile.cpu is None else (profile.cpu, profile.cpu),
        "memory": (memory, memory),
        "gpu": options.gpu,
        "cloud": options.cloud,
        "region": list(options.region) or None,
        "block_network": profile.network == "none",
        "outbound_cidr_allowlist": options.outbound_cidrs,
        "outbound_domain_allowlist": options.outbound_domains,
        "secrets": [sdk.Secret.from_name(name, client=client) for name in options.secrets],
        "volumes": volumes,
    }


def tags(owner: Owner) -> dict[str, str]:
    """The tags by which an owner's sandboxes are found again, from anywhere."""
    return {"toolfleet_fleet": owner.fleet, "toolfleet_worker": owner.worker_id}


def config(profile: Profile) -> Config:
    """What the runner is told. Modal's own memory limit kills the sandbox, so the runner's comes first."""
    return replace(
        told.config(profile),
        inherit=True,
        provable=profile.modal.pooled,
        monitor=True,
    )
