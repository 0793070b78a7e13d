"""A producer's way into the fleet: `Fleet` carries calls out, keeps who waits for what, and brings results back."""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from toolfleet.config import connection, contract
from toolfleet.config.answers import Holder
from toolfleet.config.carriage import Parcel
from toolfleet.config.celery_app import make_app
from toolfleet.config.connection import OUTAGES
from toolfleet.config.contact import Contact
from toolfleet.config.contract import Beginning, Setup, Status, ToolCall, ToolResult, ended, new_id
from toolfleet.config.errors import (
    FleetClosed,
    FleetError,
    InvalidCall,
    PayloadTooLarge,
    RedisUnavailable,
    TrajectoryClosed,
)
from toolfleet.config.patience import persist
from toolfleet.config.settings import Settings, load
from toolfleet.config.snapshots import Origin
from toolfleet.config.state import FleetState
from toolfleet.producer.embedded import EmbeddedFleet
from toolfleet.producer.endings import Endings
from toolfleet.producer.inflight import Again, InFlight
from toolfleet.producer.publisher import Publisher, body_of
from toolfleet.producer.replies import Replies
from toolfleet.producer.trajectory import Trajectory

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Parts of files that are on their way at once, over all trajectories.
PARTS = 16
#: Calls that one round asks the ledger for.
LOOK_AT_ONCE = 500


class Fleet:
    """A connection to a fleet. Use it as ``async with Fleet.connect() as fleet``.

    One producer holds a few Redis connections and one thread, however many calls it awaits.
    """

    def __init__(self, settings: Settings, embedded: EmbeddedFleet | None = None) -> None:
        self.settings = settings
        self.producer_id = new_id("p")
        self.late_results = 0
        """Results that came after their call was cancelled or given up; dropped."""
        self._embedded = embedded
        self._in_flight = InFlight()
        self._places: dict[str, asyncio.Future[Holder]] = {}
        self._open: dict[str, Trajectory] = {}
        self._errands: set[asyncio.Task[Any]] = set()
        self._beat: asyncio.Task[None] | None = None
        self._beating = True
        self.contact = Contact(settings.heartbeat, settings.lease_ttl)
        #: Permits for parts of files, so that memory does not grow with the number of transfers.
        self.parts = asyncio.Semaphore(PARTS)
        self._running = False

    @classmethod
    def connect(cls, settings: Settings | None = None, *, workers: int = 2, **overrides: Any) -> Self:
        """A fleet to enter with ``async with``.

        Args:
            settings: read from the environment when None.
            workers: worker processes of an embedded fleet, which is started when no ``redis_url`` is set.
            **overrides: single settings, e.g. ``redis_url=...`` or ``slots=4``.

        Raises:
            SettingsError: a setting is wrong.
        """
        settings = settings or load(**overrides)
        return cls(settings, None if settings.redis_url else EmbeddedFleet(settings, workers))

    async def __aenter__(self) -> Self:
        """Start what is embedded, and connect.

        Raises:
            RedisUnavailable, RedisUnsupported: Redis does not answer, or cannot serve.
            FleetError: the embedded fleet did not come up.
        """
        try:
            url = await self._embedded.start() if self._embedded else self.settings.redis_url.get_secret_value()  # type: ignore[union-attr]
            self._redis = connection.client(url)
            await connection.check(self._redis, url)
            self.state = FleetState(self._redis, self.settings)
            app = make_app(url, self.settings.fleet)
            self._endings = Endings(self.settings, self.state, self._tell_cancel)
            self._publisher = Publisher(app, self.state, self.producer_id, self.settings.start_timeout)
            await self.patiently(lambda: self.state.producer_alive(self.producer_id, self._alive_for))
            self._replies_redis = connection.client(url, retries=0)
            self._replies = Replies(
                self._replies_redis, self.state, self.producer_id, self._on_reply, self._in_flight.doubt
            )
            self._replies.start()
            self._beat = asyncio.create_task(self._beat_forever(), name="toolfleet-producer-heartbeat")
            self._running = True
            if self._embedded:
                await self._embedded.wait_ready(self.state)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def trajectory(
        self,
        trajectory_id: str | None = None,
        *,
        profile: str = "default",
        sweep: str = "default",
        setup: Sequence[Setup] = (),
        image: str | None = None,
    ) -> Trajectory:
        """A trajectory to enter with ``async with``; it takes a slot at its first call.

        Args:
            trajectory_id: your own id, printable and without white space; a random one when None.
            profile: the environment it runs in.
            sweep: the population it belongs to.
            setup: archives to unpack first, see `archive`.
            image: in the place of the profile's; no sandbox waits warm for it, and none of its kind is used again.

        Raises:
            FleetClosed: the fleet was closed.
            InvalidCall: the id cannot be one, or the image cannot be a name.
        """
        if not self._running:
            raise FleetClosed("this fleet is not connected; use it inside `async with Fleet.connect() as fleet`")
        ident = trajectory_id or new_id("t")
        if not contract.is_identifier(ident):
            raise InvalidCall(f"trajectory id {ident!r}: use 1 to 200 printable characters without white space")
        try:
            beginning = Beginning(setup=tuple(setup), image=image)
        except ValidationError as error:
            raise InvalidCall(f"this trajectory cannot begin: {error.errors(include_url=False)[0]['msg']}") from None
        made = self._open[ident] = Trajectory(self, ident, profile, sweep, beginning)
        return made

    async def archive(self, content: bytes, dest: str = "/") -> Setup:
        """Put a tar archive where workers find it; give the answer to `trajectory` as set-up.

        Raises:
            PayloadTooLarge: it is larger than the setting ``max_payload``.
            RedisUnavailable: Redis did not take it within ``start_timeout``.
        """
        if len(content) > self.settings.max_payload:
            raise PayloadTooLarge(
                f"the archive has {len(content)} bytes; max_payload allows {self.settings.max_payload}"
            )
        digest = hashlib.sha256(content).hexdigest()
        await self.patiently(lambda: self.state.put_blob(digest, content))
        return Setup(archive=digest, dest=dest)

    def open_ids(self) -> list[str]:
        """The ids of the trajectories that were made here and not closed."""
        return list(self._open)

    async def close(self) -> None:
        """Close what is open, and stop what is embedded. Idempotent; waiting calls are cancelled."""
        self._running = False
        try:
            await self._close_connections()
        finally:
            if self._embedded:
                await self._embedded.stop()

    # -- used by Trajectory

    async def execute(self, trajectory: Trajectory, call: ToolCall) -> ToolResult:
        """Carry ``call`` to its worker and wait for its result, by its deadline at the latest."""
        if not self._running:
            raise FleetClosed("this fleet was closed")
        body = body_of(call, self.settings.max_payload)
        patience = self._endings.patience(call)
        trajectory.ahead += patience
        began = time.monotonic()
        try:
            await trajectory.place()
            held = time.monotonic() - began
            async with asyncio.timeout(self.settings.start_timeout + trajectory.ahead):
                result = await self._carry(trajectory, call, body)
            return _with_wait(result, held)
        except TimeoutError:
            result, telling = await self._endings.expire(call)
            if telling is not None:
                self.errand(telling)
            return result
        except (asyncio.CancelledError, FleetError):
            # It may stand in the ledger already, from a worker that has lost the trajectory since.
            self.errand(self._endings.cancel(call))
            raise
        finally:
            trajectory.ahead -= patience
            self._in_flight.remove(call.call_id)

    def forked(self, parent: Trajectory, trajectory_id: str, origin: Origin) -> Trajectory:
        """A trajectory whose workspace starts as a copy of its parent's."""
        made = self._open[trajectory_id] = Trajectory(
            self, trajectory_id, parent.profile, parent.sweep, Beginning(image=parent.beginning.image), origin
        )
        return made

    async def close_trajectory(self, trajectory: Trajectory) -> None:
        """Tell whoever holds the lease that the trajectory ends."""
        self._open.pop(trajectory.id, None)
        if not self._running:
            return
        try:
            await self._tell_close(trajectory)
        except OUTAGES as error:
            # Leaving a block must not hide the error that ended it, nor keep a slot for as long as we live.
            log.warning("trajectory %s could not be closed yet: %s", trajectory.id, error)
            self.errand(persist(lambda: self._tell_close(trajectory), self.settings.call_ttl))

    def expect_place(self, trajectory_id: str) -> asyncio.Future[Holder]:
        """A future for the ``placed`` notice of a waiting trajectory."""
        future = asyncio.get_running_loop().create_future()
        self._places[trajectory_id] = future
        return future

    def forget_place(self, trajectory_id: str) -> None:
        """Nobody waits for that notice any more."""
        self._places.pop(trajectory_id, None)

    def entered(self, trajectory: Trajectory, epoch: int) -> bool:
        """Whether a call of ``trajectory`` may have started under ``epoch`` or before, and has not ended."""
        return self._in_flight.entered(trajectory, epoch)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What ``ask`` returns, asked again for ``start_timeout`` while Redis is away.

        Raises:
            RedisUnavailable: it stayed away.
        """
        try:
            return await persist(ask, self.settings.start_timeout)
        except OUTAGES as error:
            raise RedisUnavailable(
                f"Redis did not answer for {self.settings.start_timeout:g} s: {error}. Is it running, and not full?"
            ) from None

    # -- calls

    async def _carry(self, trajectory: Trajectory, call: ToolCall, body: str) -> ToolResult:
        awaited = self._in_flight.add(call.call_id, trajectory)
        while True:
            holder = await trajectory.place()
            if 0 < awaited.entered <= trajectory.forgotten:
                # It may have run in the workspace that is gone: it must not run in another one.
                gone = "Redis lost its state, and no worker remembers the trajectory; the workspace is gone"
                return ended(call, Status.LOST, executed="unknown", error=gone)
            future = awaited.expect()
            try:
                verdict = await self._publisher.send(Parcel(holder, call, body))
            except OUTAGES as error:
                log.warning("call %s could not be carried: %s", call.call_id, error)
                raise TimeoutError from error
            if verdict == "closed":
                raise TrajectoryClosed(f"trajectory {trajectory.id} was closed; open a new one under another id")
            if verdict == "taken":
                raise InvalidCall(f"the call id {call.call_id} belongs to another trajectory's call; choose another")
            outcome: ToolResult | Again = Again.MOVED
            if verdict != "moved":
                awaited.entered = holder.epoch
                outcome = await future
            if isinstance(outcome, ToolResult):
                return outcome
            if outcome is Again.MOVED:
                trajectory.forget(holder)

    async def _look_for_overdue(self) -> None:
        """Ask the ledger for calls awaited for long: a reply, a message or all of Redis may have been lost."""
        overdue = self._in_flight.overdue(LOOK_AT_ONCE)
        for call_id, (state, result) in zip(overdue, await self.state.look(overdue), strict=True):
            if result is not None:
                self._in_flight.settle(call_id, ToolResult.model_validate_json(result))
            elif state != "started" or self._in_flight.believe(call_id):
                self._in_flight.settle(call_id, Again.LOST_ON_THE_WAY if state else Again.MOVED)

    async def _tell_close(self, trajectory: Trajectory) -> None:
        holder = await self.state.close(trajectory.id, trajectory.origin)
        if holder is not None:
            await self._publisher.send(Parcel(holder, notice={"op": "close", "trajectory": trajectory.id}))

    async def _tell_cancel(self, call: ToolCall, worker: str) -> None:
        item = {"op": "cancel", "call": call.call_id, "trajectory": call.trajectory_id}
        await self._publisher.send(Parcel(Holder(worker, "", 0), notice=item))

    def _on_reply(self, kind: str, ident: str, body: bytes) -> None:
        if kind == "placed":
            place = self._places.get(ident)
            if place is not None and not place.done():
                place.set_result(Holder(**json.loads(body)))
            return
        if kind == "moved":
            self._in_flight.settle(ident, Again.MOVED)
        elif not self._in_flight.awaits(ident):
            self.late_results += 1
        else:
            self._in_flight.settle(ident, ToolResult.model_validate_json(body))

    # -- life

    @property
    def _alive_for(self) -> float:
        return self.settings.lease_ttl + 2 * self.settings.heartbeat

    async def _beat_forever(self) -> None:
        while self._beating:
            try:
                await self.state.producer_alive(self.producer_id, self._alive_for)
                self.contact.note()
                if self.contact.steady:
                    # A worker that died alone has no other worker to tell its trajectories.
                    await self.state.recover_lapsed()
                await self._look_for_overdue()
            except OUTAGES as error:
                log.warning("producer heartbeat failed: %s", error)
            except Exception:
                # Whatever it is: without heartbeats the trajectories would be reaped.
                log.exception("producer heartbeat failed")
            if self._beating:
                await asyncio.sleep(self.settings.heartbeat)

    def errand(self, work: Any) -> None:
        """Run ``work`` beside the caller; `close` waits for it."""
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[Any]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("telling the fleet about a cancelled call failed: %s", error)

    async def _close_connections(self) -> None:
        self._in_flight.cancel()
        await asyncio.sleep(0)
        if not hasattr(self, "_redis"):
            return
        with contextlib.suppress(*OUTAGES, TimeoutError):
            async with asyncio.timeout(self.settings.lease_ttl):
                await self._say_goodbye()
        # The flag beside the cancellation: on Python 3.11 the Redis client may swallow the latter. And waited for:
        # whoever still asked Redis after the end of its connections would open another one.
        self._beating = False
        ending = {*self._errands, *([self._beat] if self._beat else [])}
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=self.settings.lease_ttl)
        if hasattr(self, "_replies"):
            await self._replies.stop()
            await self._replies_redis.aclose()
        await self._redis.aclose()

    async def _say_goodbye(self) -> None:
        if not hasattr(self, "_publisher"):
            return
        if self._errands:
            await asyncio.wait(set(self._errands))
        self._running = True  # the trajectories' own close() still needs the connection
        try:
            for trajectory in list(self._open.values()):
                await trajectory.close()
        finally:
            self._running = False
        await self._publisher.close()
        await self.state.producer_gone(self.producer_id)


def _with_wait(result: ToolResult, held: float) -> ToolResult:
    if held < 0.001:
        return result
    timing = result.timing.model_copy(update={"waited": result.timing.waited + held})
    return result.model_copy(update={"timing": timing})
