"""The order in which a worker comes up and goes down, around Celery's own.

Up: core on its thread, Redis checked, backends probed, Celery consumes, heartbeat. Down: no new trajectories, those
that are here go to other workers or come to their end, Celery stops consuming, producers are told about the rest,
sandboxes destroyed.
"""

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop
from celery import Celery, signals
from celery.events import EventDispatcher
from celery.worker.control import control_command

from toolfleet.config import keys
from toolfleet.config.errors import ToolfleetError
from toolfleet.config.settings import Settings
from toolfleet.workers.core import Core
from toolfleet.workers.runtime_dir import runtime_dir

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Exit status of a worker that cannot serve: wrong settings, no Redis, no backend.
CANNOT_SERVE = 3

#: Signals that ask a worker to stop.
STOP = (signal.SIGINT, signal.SIGTERM)


class Lifecycle:
    """One worker process: Celery in the main thread, the core on another."""

    def __init__(self, app: Celery, settings: Settings, url: str) -> None:
        self.worker_id = settings.worker or f"{socket.gethostname().split('.')[0][:60]}-{secrets.token_hex(2)}"
        self._app = app
        self._settings = settings
        self._url = url
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="toolfleet-core", daemon=True)
        self._core: Core | None = None
        self._consumer: Any = None
        self._celerys: dict[int, Any] = {}
        """Celery's own signal handlers."""
        self._asked_to_stop = 0
        self._drained = False

    @property
    def queue(self) -> str:
        """The queue that only this worker consumes."""
        return keys.queue(self._settings.fleet, self.worker_id)

    def accept(self, items: list[dict[str, Any]]) -> None:
        """Hand items of a message to the core."""
        if self._core is not None:
            self._loop.call_soon_threadsafe(self._core.accept, items)

    def cancel(self, call_id: str) -> None:
        """Have a call stopped."""
        if self._core is not None:
            self._loop.call_soon_threadsafe(self._core.cancel, call_id)

    def connect_signals(self) -> None:
        """Take part in the life of the Celery worker."""
        # Strong references: these receivers are methods, which Celery would otherwise hold weakly.
        signals.worker_init.connect(self._up, weak=False)
        signals.worker_ready.connect(self._ready, weak=False)
        signals.worker_shutdown.connect(self._down, weak=False)

    def _up(self, **_: Any) -> None:
        self._thread.start()
        try:
            self._core = self._do(self._make_core())
        except ToolfleetError as error:
            print(f"toolfleet worker: {error}", file=sys.stderr)
            # Celery would log a traceback and go on; a worker that cannot serve must end.
            raise SystemExit(CANNOT_SERVE) from None

    def _ready(self, sender: Any, **_: Any) -> None:
        self._consumer = sender
        if self._core is not None:
            self._core.events.listening = self._listening
            self._core.events.send = self._send_events
            # What is loaded by now stays for good; calls make many small objects and hardly a cycle.
            gc.collect()
            gc.freeze()
            gc.set_threshold(10_000, 20, 50)
            self._celerys = {number: signal.signal(number, self._stop) for number in STOP}
            self._loop.call_soon_threadsafe(self._core.serve)
            print(f"worker {self.worker_id} serves {self._settings.slots} slots", file=sys.stderr, flush=True)

    def _stop(self, number: int, frame: Any) -> None:
        """A signal to stop: Celery gets it once the core has seen its trajectories off, consuming until then."""
        core = self._core
        if core is None or self._drained:
            self._celerys[number](number, frame)
            return
        self._asked_to_stop += 1
        if self._asked_to_stop > 1:
            self._loop.call_soon_threadsafe(core.hurry)
            return
        drained = asyncio.run_coroutine_threadsafe(core.drain(self._settings.drain_timeout), self._loop)
        drained.add_done_callback(lambda _: self._shut_down(number))

    def _shut_down(self, number: int) -> None:
        self._drained = True
        os.kill(os.getpid(), number)

    def _down(self, **_: Any) -> None:
        core, self._core = self._core, None
        if core is not None:
            # Celery has stopped; from here on a further signal means: do not wait for the calls in flight.
            for number in STOP:
                signal.signal(number, lambda *_: self._loop.call_soon_threadsafe(core.hurry))
            self._do(core.close(0.0 if self._asked_to_stop else self._settings.drain_timeout))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _make_core(self) -> Core:
        core = Core(self._settings, self.worker_id, self._url, runtime_dir(self._settings.runtime_dir))
        await core.open()
        return core

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _listening(self) -> bool:
        """Whether task events are switched on: by ``-E``, or by Flower's broadcast."""
        dispatcher = getattr(self._consumer, "event_dispatcher", None)
        return bool(dispatcher and dispatcher.enabled and (not dispatcher.groups or "task" in dispatcher.groups))

    def _send_events(self, batch: list[tuple[str, dict[str, Any]]]) -> None:
        with self._app.connection_for_write() as connection:
            dispatcher = EventDispatcher(
                connection, hostname=self._consumer.hostname, app=self._app, buffer_group=["task"], buffer_limit=1000
            )
            for kind, fields in batch:
                dispatcher.send(kind, **fields)
            dispatcher.flush()
            dispatcher.close()


def register_revoke(lifecycle: Lifecycle) -> None:
    """Make Flower's and Celery's ``revoke`` cancel calls: their task ids are call ids."""

    @control_command(name="revoke", args=[("task_id", str)], signature="[id1 [id2 [... [idN]]]]", variadic="task_id")
    def revoke(state: Any, task_id: str | list[str], terminate: bool = False, **_: Any) -> dict[str, str]:
        for call_id in [task_id] if isinstance(task_id, str) else task_id:
            lifecycle.cancel(call_id)
        return {"ok": f"calls {task_id} flagged as cancelled"}
