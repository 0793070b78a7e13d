"""The fleet of a process whose code names none: connected at its first use, as the settings say."""

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable

from toolfleet.config.connection import OUTAGES
from toolfleet.config.settings import Settings, load
from toolfleet.producer.adapters.rollouts import RolloutConfig, Rollouts
from toolfleet.producer.sync import SyncFleet

#: Seconds that the end of a process waits for Redis.
GOODBYE = 5.0


class Shared:
    """`Rollouts` that one process shares, over a `SyncFleet` of its own. Safe to use from many threads."""

    def __init__(self, settings: Callable[[], Settings] = load, config: RolloutConfig | None = None) -> None:
        self._settings = settings
        self._config = config or RolloutConfig()
        self._lock = threading.Lock()
        self._fleet: SyncFleet | None = None
        self._rollouts: Rollouts | None = None
        self._pid = 0

    def get(self) -> Rollouts:
        """The rollouts; connects at the first use, which blocks.

        Raises:
            SettingsError, FleetError: the settings are wrong, or the fleet cannot be reached or started.
        """
        with self._lock:
            # A child that was forked off has no thread to serve it, and must not use its parent's connections.
            if (there := self.current()) is not None:
                return there
            fleet = SyncFleet.connect(self._settings()).__enter__()
            rollouts = Rollouts(fleet, self._config)
            self._fleet, self._rollouts, self._pid = fleet, rollouts, os.getpid()
            atexit.register(self._say_goodbye)
            return rollouts

    async def aget(self) -> Rollouts:
        """The same without blocking the event loop."""
        rollouts = self.current()
        return rollouts if rollouts is not None else await asyncio.to_thread(self.get)

    def current(self) -> Rollouts | None:
        """The rollouts, if this process has used them."""
        return self._rollouts if self._pid == os.getpid() else None

    def configure(self, config: RolloutConfig) -> None:
        """Say in which environment tasks run, before the first use.

        Raises:
            ValueError: it is in use already, with another configuration.
        """
        with self._lock:
            if self._rollouts is not None and self._rollouts.config != config:
                raise ValueError("the fleet of this process is in use already; configure it before its first use")
            self._config = config

    def close(self) -> None:
        """Close what is open, and disconnect. The next use connects anew. Idempotent."""
        with self._lock:
            fleet, self._fleet, self._rollouts = self._fleet, None, None
            atexit.unregister(self._say_goodbye)
        if fleet is not None:
            fleet.__exit__(None, None, None)

    def _say_goodbye(self) -> None:
        """Workers learn from Redis, with their next heartbeat, that the trajectories end; what is embedded ends itself.

        By now no thread can be started any more, which an orderly end needs.
        """
        fleet = self._fleet
        if fleet is None or self._pid != os.getpid() or fleet.inner.settings.redis_url is None:
            return

        async def tell() -> None:
            async with asyncio.timeout(GOODBYE):
                for trajectory_id in fleet.inner.open_ids():
                    await fleet.inner.state.close(trajectory_id)
                await fleet.inner.state.producer_gone(fleet.inner.producer_id)

        with contextlib.suppress(*OUTAGES, TimeoutError):
            fleet.bridge.wait(tell())


#: What `tool_handler`, `ToolContext` and their kin use when they are given no fleet.
SHARED = Shared()
