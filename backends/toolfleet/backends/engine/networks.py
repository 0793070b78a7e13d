"""The networks that sandboxes may be on: made when first needed, shared by all, with no way from one to another."""

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from toolfleet.backends.engine import spec
from toolfleet.backends.engine.client import Conflict, Engine, EngineError, NotFound

if TYPE_CHECKING:
    from docker import APIClient

_LABEL = "toolfleet.network"
_SEPARATE = {"com.docker.network.bridge.enable_icc": "false"}


async def ensure_network(engine: Engine, kind: str) -> None:
    """Make the network for profiles with ``network = kind``, unless it exists.

    Raises:
        EngineError, EngineGone: the engine does not make it.
    """
    name = spec.NETWORKS[kind]
    try:
        await engine.call(lambda client: client.inspect_network(name))
        return
    except NotFound:
        pass
    with contextlib.suppress(Conflict):  # somebody else has made it meanwhile
        await engine.call(
            lambda client: client.create_network(
                name,
                driver="bridge",
                options=_SEPARATE,
                internal=kind == "internal",
                check_duplicate=True,
                labels={_LABEL: kind},
            )
        )


async def remove_networks(engine: Engine) -> None:
    """Remove those that no container is on; the engine keeps the others."""
    for network in await engine.call(lambda client: client.networks(filters={"label": _LABEL})):
        with contextlib.suppress(EngineError):
            await engine.call(partial(_remove, name=network["Id"]))


def _remove(client: "APIClient", name: str) -> None:
    client.remove_network(name)
