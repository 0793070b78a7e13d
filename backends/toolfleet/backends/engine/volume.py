"""The runner's interpreter on an engine that does not see this machine's files: in a volume, filled once."""

import asyncio
import contextlib
import io
import tarfile
from functools import partial
from typing import TYPE_CHECKING

from toolfleet.backends.engine import spec
from toolfleet.backends.engine.client import Engine, EngineError, NotFound
from toolfleet.backends.runtime import Bundle

if TYPE_CHECKING:
    from docker import APIClient

_LABEL = "toolfleet.interpreter"
#: The last file to be put there.
_COMPLETE = "complete"
#: Seconds that some tens of megabytes may take on their way.
_UPLOAD_WITHIN = 600.0


async def ensure(engine: Engine, bundle: Bundle, image: str) -> str:
    """The name of a volume that holds ``bundle``; a container of ``image``, never started, serves to fill it.

    Raises:
        EngineError, EngineGone: it cannot be filled.
    """
    name = f"toolfleet-{bundle.path.name}"
    labels = {_LABEL: bundle.path.name}
    await engine.call(lambda client: client.create_volume(name, labels=labels))
    helper = await engine.call(
        lambda client: client.create_container(
            image,
            ["none"],
            host_config=client.create_host_config(binds=[f"{name}:{spec.RUNTIME}"], network_mode="none"),
            labels=labels,
        )["Id"]
    )
    try:
        if not await _complete(engine, helper):
            packed = await asyncio.to_thread(bundle.pack, spec.RUNTIME)
            await engine.call(lambda client: client.put_archive(helper, "/", packed), _UPLOAD_WITHIN)
            await engine.call(lambda client: client.put_archive(helper, spec.RUNTIME, _marker()))
    finally:
        await engine.call(lambda client: client.remove_container(helper, force=True))
    await _prune(engine, name)
    return name


async def _complete(engine: Engine, helper: str) -> bool:
    try:
        await engine.call(lambda client: client.get_archive(helper, f"{spec.RUNTIME}/{_COMPLETE}"))
    except NotFound:
        return False
    return True


def _marker() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(_COMPLETE))
    return buffer.getvalue()


async def _prune(engine: Engine, keep: str) -> None:
    """Remove the interpreters of other versions; the engine keeps those that a container uses."""
    found = await engine.call(lambda client: client.volumes(filters={"label": _LABEL}))
    for volume in found["Volumes"] or ():
        if (name := volume["Name"]) != keep:
            with contextlib.suppress(EngineError):
                await engine.call(partial(_remove, name=name))


def _remove(client: "APIClient", name: str) -> None:
    client.remove_volume(name)
