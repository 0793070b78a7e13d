"""Everything that exists in the stand-in: apps, images, mounts, secrets, volumes, sandboxes."""

import asyncio
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message
from modal_proto import api_pb2
from standins.modal.faults import invalid
from standins.modal.sandbox import Order, Sandbox, copy_tree

T = TypeVar("T", bound=Message)


class Cloud:
    """The state behind both services."""

    def __init__(self, root: Path, images: Mapping[str, Path]) -> None:
        self.root = root
        self.idempotent = True
        self.secrets: dict[str, dict[str, str]] = {}
        self.secret_names: dict[str, str] = {}
        self.volumes: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self.tokens: set[str] = set()
        """Of all sandboxes that there ever were."""
        self.images: dict[str, Path | None] = {}
        self._trees = images
        self._mounts: dict[str, list[api_pb2.MountFile]] = {}
        self._answers: dict[str, asyncio.Future[Any]] = {}
        for name in ("contents", "images", "mounts", "sandboxes", "volumes"):
            (root / name).mkdir()

    async def once(self, key: str | None, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work``, or give the answer that the same idempotency key has got before."""
        if key is None or not self.idempotent:
            return await work()
        if key not in self._answers:
            self._answers[key] = asyncio.ensure_future(work())
        answer: T = await asyncio.shield(self._answers[key])
        return answer

    # -- images and mounts

    def image(self, definition: api_pb2.Image) -> str:
        """The id of an image by its recipe. Only ``FROM`` counts; a name that is not known is a bare system."""
        if definition.base_images:
            base = self.images[definition.base_images[0].image_id]
        else:
            tags = [line.split()[1] for line in definition.dockerfile_commands if line.startswith("FROM ")]
            base = self._trees.get(tags[0]) if tags else None
        image_id = "im-" + hashlib.sha256(definition.SerializeToString(deterministic=True)).hexdigest()[:22]
        self.images.setdefault(image_id, base)
        return image_id

    async def snapshot(self, sandbox: Sandbox, snapshot_id: str) -> str:
        """Keep the files of a sandbox as an image; the same ``snapshot_id`` gives the same one."""
        image_id = "im-" + hashlib.sha256(snapshot_id.encode()).hexdigest()[:22]
        if image_id not in self.images:
            path = self.root / "images" / image_id
            await asyncio.to_thread(copy_tree, sandbox.root, path)
            self.images[image_id] = path
        return image_id

    async def delete_image(self, image_id: str) -> None:
        """Forget an image and the files of a snapshot."""
        with invalid("image"):
            tree = self.images.pop(image_id)
        if tree is not None and tree.parent == self.root / "images":
            await asyncio.to_thread(shutil.rmtree, tree)

    def content(self, sha256: str) -> Path:
        """Where content is kept."""
        return self.root / "contents" / Path(sha256).name

    def mount(self, files: Iterable[api_pb2.MountFile]) -> str:
        """Make a mount of contents that have been put before."""
        files = list(files)
        digest = hashlib.sha256(json.dumps(sorted((f.filename, f.sha256_hex, f.mode) for f in files)).encode())
        mount_id = f"mo-{digest.hexdigest()[:22]}"
        if mount_id not in self._mounts:
            for file in files:
                path = self.root / "mounts" / mount_id / file.filename.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.content(file.sha256_hex), path)
                path.chmod(file.mode & 0o777 or 0o644)
            self._mounts[mount_id] = files
        return mount_id

    # -- sandboxes

    async def create(
        self, request: api_pb2.SandboxCreateV2Request | api_pb2.SandboxCreateRequest, env: dict[str, str], *, v1: bool
    ) -> Sandbox:
        """Start a sandbox."""
        definition = request.definition
        with invalid("image"):
            template = self.images[definition.image_id]
        for secret in definition.secret_ids:
            with invalid("secret"):
                env = {**self.secrets[secret], **env}
        order = Order(
            definition,
            {tag.tag_name: tag.tag_value for tag in request.tags},
            request.app_id,
            env,
            template,
            [*(self._mount_bind(mount) for mount in definition.mount_ids), *self._volume_binds(definition)],
        )
        name = uuid.uuid4().hex
        sandbox_id = f"sb-{name[:22]}" if v1 else f"sb-v2-{name[:24]}"
        task_id = f"ta-{name[:22]}" + ("" if v1 else "V")
        sandbox = Sandbox(sandbox_id, task_id, order, self.root / "sandboxes" / sandbox_id)
        await sandbox.start()
        self.sandboxes[sandbox_id] = sandbox
        self.tokens.add(sandbox.jwt)
        return sandbox

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """A sandbox that exists or has existed.

        Raises:
            GRPCError: none of that id.
        """
        with invalid("sandbox"):
            return self.sandboxes[sandbox_id]

    def env(self, sources: Iterable[api_pb2.SecretSource]) -> dict[str, str]:
        """Variables of secrets that came inline or by id."""
        env: dict[str, str] = {}
        for source in sources:
            with invalid("secret"):
                inline = source.WhichOneof("source") == "env"
                env |= dict(source.env.contents) if inline else self.secrets[source.secret_id]
        return env

    async def close(self) -> None:
        """End every sandbox and remove every file."""
        for sandbox in self.sandboxes.values():
            sandbox.end(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED)
        await asyncio.gather(*(sandbox.ended() for sandbox in self.sandboxes.values()))
        await asyncio.to_thread(shutil.rmtree, self.root)

    def _mount_bind(self, mount_id: str) -> tuple[str, Path, str]:
        with invalid("mount"):
            where = os.path.commonpath([file.filename for file in self._mounts[mount_id]])
        return "--ro-bind", self.root / "mounts" / mount_id / where.lstrip("/"), where

    def _volume_binds(self, definition: api_pb2.Sandbox) -> list[tuple[str, Path, str]]:
        binds = []
        for mount in definition.volume_mounts:
            path = self.root / "volumes" / Path(mount.volume_id).name
            path.mkdir(exist_ok=True)
            binds.append(("--ro-bind" if mount.read_only else "--bind", path, mount.mount_path))
        return binds
