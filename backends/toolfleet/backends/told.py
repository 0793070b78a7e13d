"""What every runner is told of its profile, whatever the backend."""

from toolfleet.backends.base import FIRST_TTL
from toolfleet.backends.runner.config import Config
from toolfleet.config.profile import MIB, Profile


def config(profile: Profile) -> Config:
    """The limits and the look of a sandbox of this profile; backends replace what is different with them."""
    return Config(
        disk=profile.disk_mib * MIB,
        memory=profile.memory_mib * MIB,
        pids=profile.pids,
        ttl=FIRST_TTL,
        workdir=profile.workdir,
        env=dict(profile.env),
    )
