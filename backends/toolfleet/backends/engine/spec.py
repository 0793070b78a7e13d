"""What the engine is asked for: a profile as the arguments of a container, with nothing in it that cannot be held."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolfleet.backends import told
from toolfleet.backends.base import Capabilities
from toolfleet.backends.engine.images import Image
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.enter import INODES_PER_MIB
from toolfleet.config.errors import SpecRefused
from toolfleet.config.profile import MIB, Profile

#: Where the interpreter and, with a socket of this machine, the way to the boot message are in a sandbox.
RUNTIME, BOOT = "/.toolfleet/runtime", "/.toolfleet/boot"

#: As whom commands run where neither profile nor image names anybody but root.
NOBODY = "65534:65534"
#: Networks that are made for sandboxes, by what the profile calls them.
NETWORKS = {"bridge": "toolfleet-bridge", "internal": "toolfleet-internal"}
#: Runtimes that share the host's kernel, so that a listening socket can be handed into the sandbox.
_NATIVE = {"runc", "crun", "youki", "io.containerd.runc.v2", "io.containerd.runtime.v1.linux"}
_SHM = 64 * MIB


@dataclass(frozen=True, slots=True)
class Facts:
    """What the engine says about itself."""

    runtimes: frozenset[str]
    default_runtime: str
    driver: str
    """Storage driver and the file system below it, for people to read."""
    missing: tuple[str, ...]
    """Limits that its kernel does not hold: ``memory``, ``swap``, ``pids``, ``cpu``."""
    separates: bool
    """Containers on one bridge can be kept from each other."""
    engine: str
    """Its own id."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Facts":
        """From the answer to ``GET /info``."""
        below = next((value for key, value in info.get("DriverStatus") or () if key == "Backing Filesystem"), "")
        limits = {"memory": "MemoryLimit", "swap": "SwapLimit", "pids": "PidsLimit", "cpu": "CpuCfsQuota"}
        return cls(
            runtimes=frozenset(info.get("Runtimes") or {}),
            default_runtime=info.get("DefaultRuntime") or "runc",
            driver=info.get("Driver", "unknown") + (f" on {below}" if below else ""),
            missing=tuple(name for name, key in limits.items() if not info.get(key)),
            # Engines from 28 on no longer say so; they load what it takes when a network asks for it, or refuse.
            engine=str(info.get("ID", "")),
            separates=bool(info.get("BridgeNfIptables", True))
            or int(info.get("ServerVersion", "0").split(".")[0]) >= 28,
        )

    def capabilities(self, *, local: bool, places: frozenset[str]) -> Capabilities:
        """What sandboxes on this engine can be, and from where they can be reached."""
        return Capabilities(
            networks=frozenset({"none", *(NETWORKS if self.separates else ())}),
            limits={
                "memory": "cgroup",
                "pids": "cgroup",
                "cpu": "cgroup",
                "disk": f"tmpfs, or storage-opt of the engine ({self.driver})",
            },
            attach="host" if local else "anywhere",
            places=places,
            pty=True,
            notes=tuple(_notes(self, local=local)),
        )

    def native(self, profile: Profile) -> bool:
        """Whether sandboxes of ``profile`` share the kernel of the engine."""
        return (profile.docker.runtime or self.default_runtime) in _NATIVE


def _major(info: Mapping[str, Any]) -> int:
    digits = str(info.get("ServerVersion", "")).partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def _notes(facts: Facts, *, local: bool) -> Iterator[str]:
    yield "With storage=memory the image is read-only and only docker.writable can be written to."
    yield "With storage=disk the engine must hold the limit (xfs with pquota, btrfs, zfs), or do without one."
    yield "Sandboxes with a network can reach services of the engine's machine at the address of their gateway."
    yield "File operations take a process of the limit like commands: none is kept in reserve."
    if "swap" in facts.missing:
        yield "The kernel of the engine does not count swap: a sandbox may swap out more than its memory."
    if not facts.separates:
        yield "Networks are refused: without br_netfilter sandboxes could reach each other."
    if not local:
        yield "Each connection to a sandbox is an exec of the engine, which fails while all processes are in use."


def check(profile: Profile, facts: Facts) -> str:
    """Refuse what cannot be enforced or cannot work; return the name of the image.

    Raises:
        SpecRefused: the message says what is wrong with the profile and what to do.
    """
    if profile.image is None:
        raise SpecRefused('the backend docker needs an image: set "image" in the profile')
    if profile.rootfs is not None:
        raise SpecRefused("the backend docker takes an image, no rootfs: tar -C ROOTFS -c . | docker import - NAME")
    if any("\0" in value for value in profile.env.values()):
        raise SpecRefused("an environment variable of the profile holds a NUL byte")
    if foreign := profile.foreign_options("docker"):
        raise SpecRefused(f"the backend docker does not understand options of {' and '.join(foreign)}: remove them")
    if profile.network == "host":
        raise SpecRefused('the backend docker shares no network with the host: take network = "bridge"')
    if profile.network in NETWORKS and not facts.separates:
        raise SpecRefused(
            f"network = {profile.network!r} would let sandboxes reach each other: load the kernel module br_netfilter "
            "on the engine's machine, set sysctl net.bridge.bridge-nf-call-iptables=1 and restart the engine"
        )
    runtime = profile.docker.runtime
    if runtime is not None and runtime not in facts.runtimes:
        raise SpecRefused(f"the engine has no runtime {runtime!r}; it has {', '.join(sorted(facts.runtimes))}")
    wanted = {"memory", "pids", *(["cpu"] if profile.cpu is not None else [])}
    if lacking := wanted.intersection(facts.missing):
        raise SpecRefused(
            f"the kernel of the engine holds no limit on {' and '.join(sorted(lacking))}: enable its cgroup"
        )
    if profile.storage == "disk" and not profile.docker.unlimited_disk and profile.docker.runtime not in (None, "runc"):
        raise SpecRefused('the disk limit is known to hold with the runtime runc only: take storage = "memory"')
    return profile.image


def config(profile: Profile, user: str) -> Config:
    """What the runner of a sandbox of this profile is told."""
    env = dict(profile.env)
    if user == NOBODY:
        env.setdefault("HOME", "/tmp")  # noqa: S108 - in the sandbox; nobody's home does not exist
    return replace(
        told.config(profile),
        env=env,
        inherit=True,
        count=False,
    )


def user(profile: Profile, image: Image) -> str:
    """As whom commands run: as root only where the profile says so."""
    if profile.docker.user is not None:
        return profile.docker.user
    return NOBODY if image.user.partition(":")[0] in ("", "0", "root") else image.user


def host_config(profile: Profile, binds: Sequence[str], *, helpers: int) -> dict[str, Any]:
    """The limits and the confinement, as keyword arguments of the SDK's ``create_host_config``.

    ``helpers`` are our own processes in the container, which do not count as those of commands.
    """
    in_memory = profile.storage == "memory"
    memory = (profile.memory_mib + (profile.disk_mib if in_memory else 0)) * MIB
    arguments: dict[str, Any] = {
        "auto_remove": True,
        "binds": list(binds),
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": NETWORKS.get(profile.network, "none"),
        "mem_limit": memory,
        "memswap_limit": memory,
        "pids_limit": profile.pids + helpers,
        "shm_size": min(profile.disk_mib * MIB, _SHM),
        "log_config": {"Type": "none", "Config": {}},
        "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "read_only": in_memory,
    }
    if profile.cpu is not None:
        arguments["nano_cpus"] = int(profile.cpu * 1e9)
    if profile.docker.runtime is not None:
        arguments["runtime"] = profile.docker.runtime
    if in_memory:
        inodes = max(1024, profile.disk_mib * INODES_PER_MIB)
        options = f"rw,exec,nosuid,nodev,mode=1777,size={profile.disk_mib}m,nr_inodes={inodes}"
        arguments["tmpfs"] = dict.fromkeys(profile.docker.writable, options)
    elif not profile.docker.unlimited_disk:
        arguments["storage_opt"] = {"size": f"{profile.disk_mib}M"}
    return arguments


def refusal(profile: Profile, words: str, facts: Facts) -> str | None:
    """Why the engine will never make such a container, where its words say so."""
    if "storage-opt" in words or "storage opt" in words.lower():
        return (
            f"the engine cannot limit the disk of a sandbox ({facts.driver}: {words}). Move its data to xfs mounted "
            'with pquota, to btrfs or to zfs; or take storage = "memory"; or do without: docker.unlimited_disk = true'
        )
    if "invalid mount" in words or "bind source path does not exist" in words:
        return (
            f"the engine does not see this worker's files ({words}). In a container, mount the runtime directory and "
            '/var/lib/toolfleet at the same paths as on the machine, or set docker.transport = "relay"'
        )
    if "_fetch" in words:
        return (
            f"the engine does not share this worker's kernel, or keeps containers from its files ({words}): "
            'set docker.transport = "relay"'
        )
    if "unable to find user" in words or "no matching entries in passwd" in words:
        return f"the image {profile.image!r} has no such user: {words}"
    if "exec format error" in words:
        return f"the image {profile.image!r} is made for another kind of processor than this worker: {words}"
    return None
