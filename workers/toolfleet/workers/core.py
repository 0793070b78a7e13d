"""The asyncio core of a worker: takes items from Celery, keeps the leases, and runs their calls.

It lives on a thread of its own; `accept` and `cancel` are the only methods that other threads may call.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolfleet.backends.base import Owner
from toolfleet.config import connection
from toolfleet.config.answers import Finished, Holder
from toolfleet.config.coalesce import Coalescer
from toolfleet.config.connection import OUTAGES
from toolfleet.config.contract import ToolCall, new_id
from toolfleet.config.patience import persist
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.workers.budget import StartBudget
from toolfleet.workers.dropper import Dropper
from toolfleet.workers.events import EventLog
from toolfleet.workers.executor import Executor
from toolfleet.workers.heartbeat import Heartbeat
from toolfleet.workers.janitor import Janitor
from toolfleet.workers.keeper import Keeper
from toolfleet.workers.leases import Lease, LeaseTable
from toolfleet.workers.ledger import Ledger
from toolfleet.workers.pool import WarmPool
from toolfleet.workers.prewarmer import Prewarmer
from toolfleet.workers.reaper import Reaper
from toolfleet.workers.recoverer import Recoverer
from toolfleet.workers.run import Run
from toolfleet.workers.saving import Saver
from toolfleet.workers.service import Service
from toolfleet.workers.tenancy import HeldElsewhere, Tenancy
from toolfleet.workers.tools import ToolRegistry, registry
from toolfleet.workers.toolserver.connect import connect

log = logging.getLogger(__name__)

#: Seconds that a worker that leaves gives Redis to take what it says last.
RETIRE = 5.0
#: Seconds until a worker that leaves looks again for another that goes on with a workspace.
SEE_OFF_AGAIN = 0.5


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
        self._teardowns: set[asyncio.Task[None]] = set()
        self._redis = connection.client(url)
        self.state = FleetState(self._redis, settings)
        self.pool = WarmPool(
            settings.profiles,
            Owner(settings.fleet, worker_id),
            budget=StartBudget(self.state, settings.concurrent_starts, settings.start_timeout),
            ttl=settings.lease_ttl + settings.runner_grace,
            runtime_dir=runtime_dir,
            on_taken=lambda: self.prewarmer.wake(),
        )
        self.events = EventLog()
        self._tool_server = connect(settings)
        self._starts: Coalescer[Run, tuple[str, float]] = Coalescer(self._start_batch)
        self._finishes: Coalescer[Finished, str] = Coalescer(self._finish_batch)
        self._tenancy = Tenancy(worker_id, self.boot, self.state, self.pool, settings)
        self._saver = Saver(self.boot, self.state, self.pool, self._tenancy.patience)
        self._executor = Executor(
            worker_id,
            self.boot,
            self.state,
            Ledger(self._starts.put, lambda result, epoch: self._finishes.put(Finished(result, epoch))),
            self._tenancy,
            self._saver,
            tools or registry(settings, self._tool_server),
            self.events.call,
        )
        self.prewarmer = Prewarmer(self.pool, 5.0)
        self.heartbeat = Heartbeat(self, settings.heartbeat)
        self._services: list[Service] = [
            self.heartbeat,
            self.prewarmer,
            Janitor(self.pool, 30.0),
            Dropper(self._saver, min(settings.heartbeat, 2.0)),
            Keeper(self, self.pool.ttl / 3),
            Reaper(self, settings.heartbeat),
            Recoverer(self, min(settings.heartbeat, 0.5)),
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
        run = self.leases.find(call_id)
        if run is None:
            return
        run.cancelled = True
        if run.errand is not None:
            run.errand.stop()
        elif run.sandbox is not None:
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

    def take_up(self, lease: Lease) -> None:
        """Go on with a lease that was handed to this worker, without waiting for its next call."""
        if not lease.claimed:
            self._beside(self._take_up(lease))

    def announce(self, lease: Lease) -> None:
        """Tell a Redis that has lost its state of a lease."""
        self._beside(self._announce(lease))

    def end_lease(self, lease: Lease, *, release: bool) -> None:
        """End a lease: after its calls, giving the slot back, with ``release``; else at once, for it is not ours."""
        if not lease.closing:
            lease.closing, lease.over = True, not release
            if lease.over:
                self._stop_errands(lease)
            self._beside(self._teardown(lease, release))

    async def drain(self, seconds: float) -> None:
        """Take no new trajectories, and see those that are here off: to another worker, or to their end.

        Returns when that is done, after ``seconds``, or at once when someone is in a `hurry`.
        """
        self.accepting = False
        with contextlib.suppress(*OUTAGES):
            await self.heartbeat.tick()
        await self._unless_hurried([asyncio.create_task(self._see_off(lease)) for lease in self.leases], seconds)

    async def close(self, seconds: float) -> None:
        """Finish what runs within ``seconds``, hand over or tell producers about the rest, leave nothing behind."""
        ends = time.monotonic() + seconds
        if self.accepting:
            await self.drain(seconds)
        for lease in self.leases:
            lease.drop_queued()
        idle = [asyncio.create_task(lease.idle()) for lease in self.leases]
        await self._unless_hurried(idle, ends - time.monotonic())
        for service in self._services:
            await service.stop()
        await self._retire()
        for lease in self.leases:
            self.end_lease(lease, release=False)
        if self._teardowns:
            await asyncio.wait(set(self._teardowns), timeout=5)
        await self._drop_snapshots()
        await self.pool.close()
        await self.events.close()
        if self._tool_server is not None:
            await self._tool_server.close()
        await self._redis.aclose()

    def hurry(self) -> None:
        """Stop waiting for calls in flight: someone asked a second time."""
        self._hurry.set()

    async def _unless_hurried(self, tasks: list[asyncio.Task[None]], seconds: float) -> None:
        """Until every task has ended, time is up, or somebody is in a hurry."""
        hurry = asyncio.create_task(self._hurry.wait())
        done: asyncio.Future[Any] = asyncio.gather(*tasks)
        either: list[asyncio.Future[Any]] = [hurry, done]
        await asyncio.wait(either, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        done.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await done

    async def _see_off(self, lease: Lease) -> None:
        """Until a lease is another worker's, or has ended; one without a workspace is worth no wait."""
        while not lease.closing:
            await lease.idle()
            if lease.closing or lease.sandbox is None:
                return
            if await self._tenancy.hand_over(lease):
                self.end_lease(lease, release=False)
                return
            await asyncio.sleep(SEE_OFF_AGAIN)

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
        call = ToolCall.model_validate(item["call"]) if "call" in item else None
        trajectory = call.trajectory_id if call else item["trajectory"]
        lease = self.take_lease(trajectory, item["epoch"])
        if lease is None:
            self._beside(self._bounce(item))
            return
        call_id = call.call_id if call else item["ref"]
        self.calls += 1
        run = Run(lease, call, call_id, self.worker_id, parallel=bool(item.get("parallel")))
        lease.enqueue(run, self._executor.execute)

    async def _bounce(self, item: dict[str, Any]) -> None:
        if item["op"] != "call":
            return

        async def bounce() -> None:
            if "call" in item:
                await self.state.bounce(ToolCall.model_validate(item["call"]))
            elif body := await self.state.body(item["ref"]):
                await self.state.bounce(ToolCall.model_validate_json(body))

        await persist(bounce, self._tenancy.patience)

    async def _cancel_running(self, run: Run) -> None:
        if run.sandbox is not None and run.request is not None:
            await run.sandbox.cancel(run.request.call_id)

    # -- ledger, in batches

    async def _start_batch(self, runs: Sequence[Run]) -> list[tuple[str, float]]:
        # Asking twice is harmless: the token of the attempt tells that it is the same one.
        asked = [(run.require(), run.lease.epoch, run.token) for run in runs]
        outside = {run.call_id for run in runs if run.errand is not None}
        return await persist(lambda: self.state.start(self.boot, asked, outside=outside), self._tenancy.patience)

    async def _finish_batch(self, results: Sequence[Finished]) -> list[str]:
        # A result is worth waiting for: only a lease that certainly lapsed makes it worthless.
        return await persist(lambda: self.state.finish(self.boot, results), self._tenancy.patience)

    # -- endings

    def _stop_errands(self, lease: Lease) -> None:
        """What runs outside the sandbox of a lease that is not ours any more is nobody's."""
        for run in lease.runs.values():
            if run.errand is not None:
                run.errand.stop()

    async def _take_up(self, lease: Lease) -> None:
        try:
            await self._executor.take_up(lease)
        except HeldElsewhere:
            self.end_lease(lease, release=False)

    async def _announce(self, lease: Lease) -> None:
        if not await self._tenancy.announce(lease):
            self.end_lease(lease, release=False)

    async def _teardown(self, lease: Lease, release: bool) -> None:
        try:
            if release:
                await self._release(lease)
            else:
                # A stopping worker has no time for a Redis that is away; the runners are the backstop.
                await self._tenancy.vacate(lease, self._tenancy.patience if self.accepting else 1.0)
                await lease.idle()
        finally:
            self.leases.remove(lease)
            self.prewarmer.wake()
            if self._tool_server is not None:
                await self._tool_server.left(lease.trajectory_id, ended=release)

    async def _release(self, lease: Lease) -> None:
        with contextlib.suppress(HeldElsewhere):  # the release below finds out by itself
            await self._executor.take_up(lease)  # for the sandbox of an earlier holder, and what runs in it
        await lease.idle()
        await self._tenancy.vacate(lease, self._tenancy.patience)
        holder = Holder(self.worker_id, self.boot, lease.epoch)
        await persist(lambda: self.state.release(lease.trajectory_id, holder), self._tenancy.patience)

    async def _drop_snapshots(self) -> None:
        """Once more, for what the last forks have just let go: this may be the fleet's last worker."""
        try:
            async with asyncio.timeout(RETIRE):
                await self._saver.tidy(leaving=True)
        except OUTAGES as error:
            log.warning("Redis does not answer; saved workspaces are left to other workers: %s", error)

    async def _retire(self) -> None:
        try:
            async with asyncio.timeout(RETIRE):
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
