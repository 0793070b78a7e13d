"""The Lua scripts of one fleet, bound to a connection. They hold the rules; this only runs them."""

from importlib import resources
from typing import Any

import redis.asyncio
import redis.exceptions

from toolfleet.config import keys
from toolfleet.config.lines import Lines
from toolfleet.config.outages import OUTAGES
from toolfleet.config.settings import Settings


class Scripts:
    """Runs scripts by name. What each one takes and answers stands at its head (``scripts/*.lua``)."""

    def __init__(self, connection: redis.asyncio.Redis, settings: Settings) -> None:
        self.redis = connection
        self.fleet = settings.fleet
        self._root = keys.root(settings.fleet)
        self._keep = ms(settings.call_ttl)
        self._result_keep = ms(settings.result_ttl)
        self._scripts = {name: connection.register_script(text) for name, text in _sources().items()}
        self._lines = Lines(connection)

    def key(self, name: str, ident: str | None = None) -> str:
        """A Redis key of this fleet, see `toolfleet.config.keys`."""
        return keys.key(self.fleet, name, ident)

    async def _now_ms(self) -> int:
        seconds, micros = await self.redis.time()
        return int(seconds * 1000 + micros // 1000)

    async def _run(self, name: str, *args: str | int) -> Any:
        script = self._scripts[name]
        try:
            return await self._lines.ask("EVALSHA", script.sha, 1, self._root, *args)
        except (*OUTAGES, redis.exceptions.NoScriptError):
            # The client's own way: it loads the script, and repeats over short outages. Every script bears that.
            return await script(keys=[self._root], args=list(args))


def ms(seconds: float) -> int:
    """``seconds`` in the unit of the scripts."""
    return int(seconds * 1000)


def _sources() -> dict[str, str]:
    folder = resources.files("toolfleet.config") / "scripts"
    texts = {f.name.removesuffix(".lua"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".lua")}
    common = keys.lua_prelude() + "\n" + texts.pop("_common")
    return {name: f"{common}\n{text}" for name, text in texts.items()}
