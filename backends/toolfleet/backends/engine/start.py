"""One start: a container, its runner, and the runner's configuration."""

import asyncio
from collections.abc import Mapping
from typing import Any

from toolfleet.backends.engine.client import Engine
from toolfleet.backends.engine.ways import Way
from toolfleet.backends.engine.wire import Wire
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.standalone import READY

#: Seconds until a started runner must be ready.
_READY_WITHIN = 60.0


class StartFailed(Exception):
    """The runner has not come up; the message is its own words, or the engine's."""


async def start(engine: Engine, name: str, arguments: Mapping[str, Any], way: Way, config: Config) -> None:
    """Make the container ``name`` and return when its runner accepts connections. Whatever fails, it may exist.

    Raises:
        StartFailed: the runner, or what starts it, has given up.
        EngineError, EngineGone: the engine has.
    """
    host_config = await engine.call(lambda client: client.create_host_config(**arguments["host_config"]))
    await engine.call(
        lambda client: client.create_container(
            name=name,
            entrypoint=way.argv,
            stdin_open=way.interactive,
            **{**arguments, "host_config": host_config},
        )
    )
    kinds = "&".join(f"{kind}=1" for kind in ("stream", "stdout", "stderr", *(["stdin"] if way.interactive else [])))
    path = f"/v{await engine.version()}/containers/{name}/attach?{kinds}"
    # Before the start, lest the first words are missed.
    try:
        wire = await Wire.open(await engine.endpoint(), path)
    except OSError as error:
        raise StartFailed(f"cannot attach to the container: {error}") from error
    try:
        await engine.call(lambda client: client.start(name))
        await _boot(wire, way, config)
    finally:
        await wire.close()


async def _boot(wire: Wire, way: Way, config: Config) -> None:
    booting = asyncio.create_task(way.boot(wire, config))
    try:
        async with asyncio.timeout(_READY_WITHIN):
            said = b""
            while not said.endswith(READY):
                data = await wire.read()
                if not data:
                    raise StartFailed(wire.words or said.decode(errors="replace") or "the runner ended without a word")
                said += data
            await booting
    except TimeoutError:
        raise StartFailed(f"the runner was not ready within {_READY_WITHIN:.0f} s. {wire.words}".strip()) from None
    except OSError as error:
        raise StartFailed(str(error)) from error
    finally:
        booting.cancel()
        await asyncio.gather(booting, return_exceptions=True)
