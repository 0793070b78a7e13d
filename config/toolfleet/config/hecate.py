"""Variables of the predecessor's terminal on MorphCloud, which go on working."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from toolfleet.config.profile import Profile

#: The profile in which the predecessor's terminal runs.
PROFILE = "hecate"
#: Variable to field of a profile, or of its ``morph`` options.
_IMAGE, _TTL, _LIFETIME = "HECATE_DEFAULT_SNAPSHOT_ID", "HECATE_VM_TTL_SECONDS", "HECATE_VM_LIFETIME_SECONDS"
_KEY = "MORPH_API_KEY"


def complete(profile: Profile, environment: Mapping[str, str]) -> Profile:
    """``profile`` with what it leaves out taken from the environment; only those of the backend ``morph`` change.

    Raises:
        ValueError: a variable has a value that the field does not take.
    """
    if profile.backend != "morph":
        return profile
    fields = profile.model_dump(exclude_unset=True)
    options = fields.setdefault("morph", {})
    for below, key, variable in (
        (fields, "image", _IMAGE),
        (fields, "idle_timeout", _LIFETIME),
        (options, "ttl", _TTL),
    ):
        if below.get(key) is None and environment.get(variable):
            below[key] = environment[variable]
    try:
        return Profile.model_validate(fields)
    except ValueError as error:
        raise ValueError(f"one of {_IMAGE}, {_TTL}, {_LIFETIME} does not fit: {error}") from None


def default_profile(environment: Mapping[str, str]) -> dict[str, Any]:
    """The profile `PROFILE` of a process that has configured none: the predecessor's VM, with its defaults.

    The limits on memory and disk are wide: what holds is the size of the snapshot's VM.
    """
    profile: dict[str, Any] = {
        "backend": "morph",
        "network": "bridge",
        "storage": "disk",
        "disk_mib": 128 * 1024,
        "memory_mib": 8 * 1024,
        "warm": 0,
    }
    if not environment.get(_IMAGE):
        profile["image"] = "snapshot_defv9tjg"
    if not environment.get(_LIFETIME):
        profile["idle_timeout"] = 300.0
    return profile


def lacking(profile: Profile, environment: Mapping[str, str]) -> str:
    """What a worker in this process would lack to serve ``profile``; empty when nothing."""
    if profile.backend != "morph":
        return ""
    if importlib.util.find_spec("morphcloud") is None:
        return "the SDK of MorphCloud is not installed: pip install 'toolfleet[morph]'"
    return "" if environment.get(_KEY) else f"{_KEY} is not set"
