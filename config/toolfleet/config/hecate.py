"""Variables of the predecessor's terminal on MorphCloud, which go on working."""

from collections.abc import Mapping

from toolfleet.config.profile import Profile

#: Variable to field of a profile, or of its ``morph`` options.
_IMAGE, _TTL, _LIFETIME = "HECATE_DEFAULT_SNAPSHOT_ID", "HECATE_VM_TTL_SECONDS", "HECATE_VM_LIFETIME_SECONDS"


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
