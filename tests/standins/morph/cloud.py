"""Instances and snapshots: what exists, what becomes of it, and until when."""

import asyncio
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
from standins.morph.machines import Machine, copy, make_base

Json = dict[str, Any]


class Missing(LookupError):
    """There is no such instance or snapshot."""


class Conflict(Exception):
    """It is not in a state for that."""


@dataclass(slots=True)
class Deadline:
    """A time to live, with the timer that ends it."""

    seconds: int | None = None
    at: int | None = None
    timer: asyncio.TimerHandle | None = None

    def arm(self, seconds: int | None, then: Any) -> None:
        """Count from now on; None stops counting."""
        self.cancel()
        self.seconds = seconds
        self.at = None if seconds is None else int(time.time() + seconds)
        if seconds is not None:
            self.timer = asyncio.get_running_loop().call_later(seconds, then)

    def cancel(self) -> None:
        """Stop the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(slots=True)
class Spec:
    """Only shown, never enforced: sizes in MiB."""

    vcpus: int = 1
    memory: int = 1024
    disk_size: int = 4096


@dataclass(slots=True)
class Snapshot:
    """A copy of a machine's disk."""

    id: str
    root: Path
    spec: Spec
    digest: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    status: str = "pending"
    created: int = field(default_factory=lambda: int(time.time()))
    ttl: Deadline = field(default_factory=Deadline)

    def json(self) -> Json:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "snapshot",
            "created": self.created,
            "status": self.status,
            "spec": _spec(self.spec),
            "refs": {"image_id": "morphvm-standin"},
            "digest": self.digest,
            "metadata": self.metadata,
            "ttl": {"ttl_seconds": self.ttl.seconds, "ttl_expire_at": self.ttl.at},
        }


@dataclass(slots=True)
class Instance:
    """A machine and its record."""

    id: str
    machine: Machine
    snapshot_id: str
    spec: Spec
    key: asyncssh.SSHKey
    metadata: dict[str, str]
    ttl_action: str = "stop"
    status: str = "pending"
    created: int = field(default_factory=lambda: int(time.time()))
    ttl: Deadline = field(default_factory=Deadline)
    wake_on: dict[str, bool] = field(default_factory=lambda: {"wake_on_ssh": False, "wake_on_http": False})

    def json(self) -> Json:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "instance",
            "created": self.created,
            "status": self.status,
            "spec": _spec(self.spec),
            "refs": {"snapshot_id": self.snapshot_id, "image_id": "morphvm-standin"},
            "networking": {"internal_ip": "192.0.2.1", "http_services": []},
            "ttl": {"ttl_seconds": self.ttl.seconds, "ttl_expire_at": self.ttl.at, "ttl_action": self.ttl_action},
            "wake_on": self.wake_on,
            "metadata": self.metadata,
        }


class Cloud:
    """Everything of one account. ``home`` holds the disks; ``boot_seconds`` passes before an instance is ready."""

    def __init__(self, home: Path, boot_seconds: float) -> None:
        self._home = home
        self._boot_seconds = boot_seconds
        self.instances: dict[str, Instance] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        root = home / "snapshot_base"
        make_base(root)
        self.snapshots["snapshot_base"] = Snapshot("snapshot_base", root, Spec(), status="ready")

    def instance(self, name: str) -> Instance:
        """The instance of that id."""
        if name not in self.instances:
            raise Missing(f"Instance {name} not found")
        return self.instances[name]

    def ready(self, name: str) -> Instance:
        """The instance of that id, if commands can run in it."""
        instance = self.instance(name)
        if instance.status != "ready":
            raise Conflict(f"Instance {name} is {instance.status}")
        return instance

    def snapshot(self, name: str) -> Snapshot:
        """The snapshot of that id."""
        if name not in self.snapshots:
            raise Missing(f"Snapshot {name} not found")
        return self.snapshots[name]

    # -- instances ------------------------------------------------------------------------------------------------

    def start(self, snapshot_id: str, body: Mapping[str, Any]) -> Instance:
        """Begin to make an instance; the keys of ``body`` are those of the API."""
        snapshot = self.snapshot(snapshot_id)
        name = f"morphvm_{secrets.token_hex(4)}"
        spec = Spec(
            body.get("vcpus") or snapshot.spec.vcpus,
            body.get("memory") or snapshot.spec.memory,
            body.get("disk_size") or snapshot.spec.disk_size,
        )
        key = asyncssh.generate_private_key("ssh-ed25519")
        machine = Machine(self._home / name, name)
        instance = Instance(name, machine, snapshot_id, spec, key, dict(body.get("metadata") or {}))
        self.instances[name] = instance
        self.set_ttl(instance, body.get("ttl_seconds"), body.get("ttl_action"))
        self.later(self._boot(instance, snapshot))
        return instance

    async def _boot(self, instance: Instance, snapshot: Snapshot) -> None:
        while snapshot.status == "pending":
            await asyncio.sleep(0.01)
        await copy(snapshot.root, instance.machine.root)
        await instance.machine.boot()
        await asyncio.sleep(self._boot_seconds)
        instance.status = "ready"
        if instance.id not in self.instances:  # stopped while it booted
            await instance.machine.destroy()

    def set_ttl(self, instance: Instance, seconds: int | None, action: str | None) -> None:
        """Let the instance end, or pause, that many seconds from now."""
        instance.ttl_action = action or instance.ttl_action
        instance.ttl.arm(seconds, lambda: self.later(self._expire(instance)))

    async def _expire(self, instance: Instance) -> None:
        if instance.ttl_action == "pause" and instance.status == "ready":
            await self.pause(instance)
        elif instance.ttl_action == "stop":
            await self.stop(instance)

    async def stop(self, instance: Instance) -> None:
        """Delete the instance with all it has."""
        self.instances.pop(instance.id, None)
        instance.ttl.cancel()
        if instance.status != "pending":  # else whoever boots it notices
            await instance.machine.destroy()

    async def pause(self, instance: Instance) -> None:
        """Stop its processes and keep them."""
        self.ready(instance.id)
        await instance.machine.pause()
        instance.status = "paused"

    async def resume(self, instance: Instance) -> None:
        """Let them go on; its time to live counts anew."""
        await instance.machine.resume()
        instance.status = "ready"
        self.set_ttl(instance, instance.ttl.seconds, None)

    # -- snapshots ------------------------------------------------------------------------------------------------

    def save(self, instance: Instance, digest: str | None, body: Mapping[str, Any]) -> Snapshot:
        """Begin to copy the instance's disk. Unlike the service's, the copy holds no processes."""
        self.ready(instance.id)
        name = f"snapshot_{secrets.token_hex(4)}"
        snapshot = Snapshot(name, self._home / name, instance.spec, digest, dict(body.get("metadata") or {}))
        self.snapshots[name] = snapshot
        self.set_retention(snapshot, body.get("ttl_seconds"))
        instance.status = "saving"
        self.later(self._save(instance, snapshot))
        return snapshot

    async def _save(self, instance: Instance, snapshot: Snapshot) -> None:
        await instance.machine.pause()
        await copy(instance.machine.root, snapshot.root)
        await instance.machine.resume()
        instance.status, snapshot.status = "ready", "ready"

    def set_retention(self, snapshot: Snapshot, seconds: int | None) -> None:
        """Delete the snapshot that many seconds from now."""
        snapshot.ttl.arm(seconds, lambda: self.later(self.delete(snapshot)))

    async def delete(self, snapshot: Snapshot) -> None:
        """Forget a snapshot; instances that were made from it go on."""
        self.snapshots.pop(snapshot.id, None)
        snapshot.ttl.cancel()
        await asyncio.to_thread(shutil.rmtree, snapshot.root, ignore_errors=True)

    # -- life -----------------------------------------------------------------------------------------------------

    def later(self, work: Any) -> None:
        """Do it in the background."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every machine."""
        for instance in list(self.instances.values()):
            await self.stop(instance)
        for task in list(self._tasks):
            await asyncio.wait({task})


def _spec(spec: Spec) -> Json:
    return {"vcpus": spec.vcpus, "memory": spec.memory, "disk_size": spec.disk_size}
