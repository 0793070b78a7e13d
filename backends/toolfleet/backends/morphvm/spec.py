"""What a profile asks of a VM: refused where it cannot be held, else in the words of MorphCloud and of the runner."""

import hashlib
import hmac
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from toolfleet.backends import told
from toolfleet.backends.base import Owner, SandboxRef
from toolfleet.backends.morphvm.install import Limits
from toolfleet.backends.runner.config import Config
from toolfleet.config.errors import SpecRefused
from toolfleet.config.options import MorphOptions
from toolfleet.config.profile import Profile

if TYPE_CHECKING:
    from morphcloud.api import Instance

NETWORKS = frozenset({"bridge"})

#: Metadata of every VM, by which it is found again.
KIND, ATTEMPT, NAME = "toolfleet", "toolfleet_attempt", "toolfleet_name"
_FLEET, _WORKER, _SPEC, _OPTIONS = "toolfleet_fleet", "toolfleet_worker", "toolfleet_spec", "toolfleet_options"

#: Seconds beyond ``start_timeout`` for which MorphCloud keeps a VM that nobody has taken yet.
_HANDOVER = 180


def check(profile: Profile) -> str:
    """Refuse what cannot be held or cannot work; return the id of the snapshot to start from.

    Raises:
        SpecRefused: the message says what is wrong with the profile and what to do.
    """
    if profile.image is None:
        raise SpecRefused(
            'the backend morph needs the id of a snapshot: set "image" in the profile, or HECATE_DEFAULT_SNAPSHOT_ID'
        )
    if profile.rootfs is not None:
        raise SpecRefused("the backend morph takes a snapshot as image, no rootfs")
    if any("\0" in value for value in profile.env.values()):
        raise SpecRefused("an environment variable of the profile holds a NUL byte")
    if profile.network not in NETWORKS:
        raise SpecRefused(
            f"a VM of MorphCloud has the internet, and network = {profile.network!r} cannot be held: take "
            'network = "bridge", or another backend'
        )
    if profile.storage != "disk":
        raise SpecRefused('files of a VM live on its disk: set storage = "disk"')
    if foreign := profile.foreign_options("morph"):
        raise SpecRefused(f"the backend morph does not understand options of {' and '.join(foreign)}: remove them")
    return profile.image


def check_size(profile: Profile, instance: "Instance") -> None:
    """Refuse a VM that is larger than the profile allows.

    Raises:
        SpecRefused: the message says which limit it would not hold.
    """
    size = instance.spec
    if size.disk_size > profile.disk_mib:
        raise SpecRefused(
            f"disk_mib = {profile.disk_mib} cannot be held: the VM's disk has {size.disk_size} MiB, which is all "
            f"the limit there is. Set disk_mib to {size.disk_size} or more, or take a smaller snapshot"
        )
    if profile.cpu is not None and size.vcpus > profile.cpu:
        raise SpecRefused(f"cpu = {profile.cpu} cannot be held: the VM has {size.vcpus} cores; set morph.vcpus")


def body(profile: Profile, owner: Owner, attempt: str) -> dict[str, Any]:
    """What MorphCloud is told about a new VM."""
    morph = profile.morph
    sizes = {"vcpus": morph.vcpus, "memory": morph.vm_memory_mib, "disk_size": morph.vm_disk_mib}
    return {
        "metadata": {
            **owned_by(owner),
            _SPEC: profile.spec_hash,
            ATTEMPT: attempt,
            _OPTIONS: morph.model_dump_json(exclude_defaults=True),
        },
        "ttl_seconds": first_ttl(morph),
        "ttl_action": "stop",
        **{name: value for name, value in sizes.items() if value is not None},
    }


def owned_by(owner: Owner | None) -> dict[str, str]:
    """The metadata that the VMs of an owner have, and no others; of all owners when None."""
    if owner is None:
        return {KIND: "sandbox"}
    return {KIND: "sandbox", _FLEET: owner.fleet, _WORKER: owner.worker_id}


def of_snapshot(instance: "Instance", name: str) -> dict[str, str]:
    """The metadata of a snapshot: whose sandbox it was, and the name that it was given."""
    told = {name: value for name, value in instance.metadata.items() if name in (_FLEET, _WORKER, _SPEC)}
    return {**told, KIND: "snapshot", NAME: name}


def ref(instance: "Instance", where: str) -> SandboxRef:
    """How a VM is found again, from any machine that has the key of its account."""
    return SandboxRef("morph", instance.id, f"@toolfleet-{instance.metadata.get(ATTEMPT, '')}", where)


def options(instance: "Instance") -> MorphOptions:
    """The options with which a VM was made."""
    return MorphOptions.model_validate_json(instance.metadata.get(_OPTIONS, "{}"))


def first_ttl(morph: MorphOptions) -> int:
    """Seconds that a VM lives until somebody holds it: one whose creator has died is not paid for long."""
    return min(morph.ttl, int(morph.start_timeout) + _HANDOVER)


def config(profile: Profile, limits: Limits) -> Config:
    """What the runner of a VM is told."""
    return replace(
        told.config(profile),
        inherit=True,
        count=limits == "rlimit",
        monitor=limits != "cgroup",
    )


def secret(api_key: str, address: str) -> bytes:
    """What seals the channel to the runner at ``address``: known to whoever has the account's key, stored nowhere."""
    return hmac.digest(api_key.encode(), f"toolfleet runner {address}".encode(), hashlib.sha256)
