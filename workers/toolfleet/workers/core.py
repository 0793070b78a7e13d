"""The asyncio core of a worker: takes items from Celery, keeps the leases, and runs their calls.

It lives on a thread of its own; `accept` and `cancel` are the only methods that other threads may call.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolfleet.backends.base import Owner
from toolfleet.config import connection
from toolfleet.config.coalesce import Coalescer
from toolfleet.config.connection import OUTAGES
from toolfleet.config.contract import ToolCall, new_id
from toolfleet.config.patience import persist
from toolfleet.config.settings import Settings
from toolfleet.config.state import Finished, FleetState, Holder
from toolfleet.workers.events import EventLog
from toolfleet.workers.executor import Executor, Ledger, Run
from toolfleet.workers.heartbeat import Heartbeat
from toolfleet.workers.janitor import Janitor
from toolfleet.workers.keeper import Keeper
from toolfleet.workers.leases import Lease, LeaseTable
from toolfleet.workers.pool import WarmPool
from toolfleet.workers.prewarmer import Prewarmer
from toolfleet.workers.reaper import Reaper
from toolfleet.workers.recoverer import Recoverer
from toolfleet.workers.service import Service
from toolfleet.workers.tools import ToolRegistry, default_registry

log = logging.getLogger(__name__)


class Core:
    """Everything a worker does with calls. Make it on its own event loop; see `lifecycle` for the order of things."""

    def __init__(
        self, settings: Settings, worker_id: str, url: str, runtime_dir: Path, tools: ToolRegistry | None = None
    ) -> None:
        self.settings = settings
        self.worker_id = worker_id
        self.boot = new_id("boot")
        self.url = url
        self.leases = LeaseTable()
        self.accepting = True
        self.calls = 0
        self.dropped = 0
        self._hurry = asyncio.Event()
        self._runs: dict[str, Run] = {}
        self._teardowns: set[asyncio.Task[None]] = set()
        self._redis = connection.client(url)
        self.state = FleetState(self._redis, settings)
        self.pool = WarmPool(
            settings.profiles,
            Owner(settings.fleet, worker_id),
            concurrent_starts=settings.concurrent_starts,
            ttl=settings.lease_ttl + settings.runner_grace,
            runtime_dir=runtime_dir,
            on_taken=lambda: self.prewarmer.wake(),
        )
        self.events = EventLog()
        self._starts: Coalescer[Run, tuple[str, float]] = Coalescer(self._start_batch)
        self._finishes: Coalescer[Finished, str] = Coalescer(self._finish_batch)
        self._executor = Executor(
            self.boot,
            self.state,
            Ledger(self._starts.put, lambda result, epoch: self._finishes.put(Finished(result, epoch))),
            self.pool,
            tools or default_registry(),
            settings.retries,
            self.events.call,
        )
        self.prewarmer = Prewarmer(self.pool, 5.0)
        self.heartbeat = Heartbeat(self, settings.heartbeat)
        self._services: list[Service] = [
            self.heartbeat,
            self.prewarmer,
            Janitor(self.pool, 30.0),
            Keeper(self, self.pool.ttl / 3),
            Reaper(self, settings.heartbeat),
            Recoverer(self.state, worker_id, settings.heartbeat),
        ]

    async def open(self) -> None:
        """Connect and probe.

        Raises:
            RedisUnavailable, RedisUnsupported, BackendUnavailable: this worker cannot serve; the message says why.
        """
        await connection.check(self._redis, self.url)
        await self.pool.probe()

    def serve(self) -> None:
        """Announce the worker and begin its background loops."""
        for service in self._services:
            service.start()

    def accept(self, items: Sequence[dict[str, Any]]) -> None:
        """Take items off a message; runs on the core's loop."""
        for item in items:
            try:
                self._accept_one(item)
            except Exception:
                # One item that cannot be read must not take the others of its message with it.
                log.exception("an item of a message could not be read")

    def cancel(self, call_id: str) -> None:
        """Stop a call that waits or runs here."""
        run = self._runs.get(call_id)
        if run is None:
            return
        run.cancelled = True
        if run.sandbox is not None:
            self._beside(self._cancel_running(run))

    def take_lease(self, trajectory_id: str, epoch: int) -> Lease | None:
        """The lease of that epoch, made when it is news; an older one ends. None when a newer one is held already."""
        lease = self.leases.get(trajectory_id)
        if lease is not None and lease.epoch > epoch:
            return None
        if lease is None or lease.epoch < epoch:
            if lease is not None:
                self.end_lease(lease, release=False)
            lease = self.leases.add(trajectory_id, epoch)
        return lease

    def end_lease(self, lease: Lease, *, release: bool) -> None:
        """End a lease after its calls; ``release`` gives the slot back, unless another worker has the lease already."""
        if not lease.closing:
            lease.closing = True
            self._beside(self._teardown(lease, release))

    async def close(self, drain: float) -> None:
        """Finish what runs within ``drain`` seconds, tell producers about the rest, and leave nothing behind."""
        self.accepting = False
        for lease in self.leases:
            lease.drop_queued()
        idle = [asyncio.create_task(lease.idle()) for lease in self.leases]
        await self._drained(idle, drain)
        for service in self._services:
            await service.stop()
        await self._retire()
        for lease in self.leases:
            self.end_lease(lease, release=False)
            if lease.sandbox is not None:
                self.pool.discard(lease.sandbox)
        if self._teardowns:
            await asyncio.wait(set(self._teardowns), timeout=5)
        await self.pool.close()
        await self.events.close()
        await self._redis.aclose()

    def hurry(self) -> None:
        """Stop waiting for calls in flight: someone asked a second time."""
        self._hurry.set()

    async def _drained(self, idle: list[asyncio.Task[None]], drain: float) -> None:
        """Until every lease is idle, time is up, or somebody is in a hurry."""
        hurry = asyncio.create_task(self._hurry.wait())
        done: asyncio.Future[Any] = asyncio.gather(*idle)
        either: list[asyncio.Future[Any]] = [hurry, done]
        await asyncio.wait(either, timeout=drain, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        done.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await done

    # -- intake

    def _accept_one(self, item: dict[str, Any]) -> None:
        op = item["op"]
        if op == "cancel":
            self.cancel(item["call"])
        elif item["boot"] != self.boot:
            self._beside(self._bounce(item))
        elif op == "close":
            lease = self.take_lease(item["trajectory"], item["epoch"])
            if lease is not None:
                self.end_lease(lease, release=True)
        elif op == "call":
            self._take_call(item)

    def _take_call(self, item: dict[str, Any]) -> None:
        call = ToolCall.model_validate_json(item["body"]) if "body" in item else None
        trajectory = call.trajectory_id if call else item["trajectory"]
        lease = self.take_lease(trajectory, item["epoch"])
        if lease is None:
            self._beside(self._bounce(item))
            return
        call_id = call.call_id if call else item["ref"]
        run = Run(lease, call, call_id, self.worker_id, parallel=bool(item.get("parallel")))
        self._runs.setdefault(call_id, run)
        lease.enqueue(run, self._execute)

    async def _execute(self, run: Run) -> None:
        self.calls += 1
        try:
            await self._executor.execute(run)
        finally:
            if self._runs.get(run.call_id) is run:
                del self._runs[run.call_id]

    async def _bounce(self, item: dict[str, Any]) -> None:
        if item["op"] != "call":
            return
        body = item.get("body") or await self.state.body(item["ref"])
        if body:
            await self.state.bounce(ToolCall.model_validate_json(body))

    async def _cancel_running(self, run: Run) -> None:
        if run.sandbox is not None:
            await run.sandbox.cancel(run.call_id)

    # -- ledger, in batches

    async def _start_batch(self, runs: Sequence[Run]) -> list[tuple[str, float]]:
        return await self.state.start(self.boot, [(run.require(), run.lease.epoch, run.token) for run in runs])

    async def _finish_batch(self, results: Sequence[Finished]) -> list[str]:
        # A result is worth waiting for: only a lease that certainly lapsed makes it worthless.
        return await persist(lambda: self.state.finish(self.boot, results), 3 * self.settings.lease_ttl)

    # -- endings

    async def _teardown(self, lease: Lease, release: bool) -> None:
        await lease.idle()
        if lease.sandbox is not None:
            await self.pool.destroy(lease.sandbox)
        if release:
            holder = Holder(self.worker_id, self.boot, lease.epoch)
            await persist(lambda: self.state.release(lease.trajectory_id, holder), 3 * self.settings.lease_ttl)
        self.leases.remove(lease)
        self.prewarmer.wake()

    async def _retire(self) -> None:
        try:
            await self.state.retire(self.worker_id, self.boot)
        except OUTAGES as error:
            log.warning("Redis does not answer; other workers will recover what is left: %s", error)

    def _beside(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._teardowns.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._teardowns.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s failed", task.get_coro(), exc_info=error)
