"""What is written on a container, so that any process can tell whose it is, find its runner and judge its remains."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict

from toolfleet.backends.base import Owner, SandboxRef
from toolfleet.backends.local import processes
from toolfleet.backends.local.processes import Identity

ID, FLEET, WORKER, SPEC = "toolfleet.id", "toolfleet.fleet", "toolfleet.worker", "toolfleet.spec"
ADDRESS, PLACE, ORIGIN, STORAGE = "toolfleet.address", "toolfleet.place", "toolfleet.origin", "toolfleet.storage"
CREATOR = "toolfleet.creator"


def creator(host: str) -> str:
    """This process, for a label."""
    me = Identity.of(os.getpid())
    return json.dumps({"host": host, "boot": processes.boot_id(), "process": asdict(me) if me else None})


def abandoned(labels: Mapping[str, str], host: str) -> bool:
    """Whether the process that began to make the container has provably ended; only its own machine can tell."""
    try:
        made_by = json.loads(labels[CREATOR])
        if made_by["host"] != host:
            return False
        return made_by["boot"] != processes.boot_id() or not Identity(**made_by["process"]).alive
    except (KeyError, TypeError, ValueError):
        return False


def of(owner: Owner) -> list[str]:
    """The filter for containers of ``owner``."""
    return [f"{FLEET}={owner.fleet}", f"{WORKER}={owner.worker_id}"]


def ref(backend: str, labels: Mapping[str, str]) -> SandboxRef:
    """The sandbox that a container is; without its secret, which is not written on it."""
    return SandboxRef(backend, labels[ID], labels.get(ADDRESS, ""), labels.get(PLACE, ""))


def container(sandbox_id: str) -> str:
    """Name of the container of a sandbox."""
    return f"toolfleet-{sandbox_id}"
