"""Carries items to the queue of one worker: into the ledger first, then out as one Celery message a batch."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import redis.exceptions
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from toolfleet.config import keys
from toolfleet.config.answers import Holder
from toolfleet.config.celery_app import ACCEPT
from toolfleet.config.coalesce import Coalescer
from toolfleet.config.connection import OUTAGES
from toolfleet.config.contract import ToolCall, new_id
from toolfleet.config.errors import InvalidArguments, PayloadTooLarge
from toolfleet.config.outages import refused_for_now
from toolfleet.config.patience import persist
from toolfleet.config.state import FleetState

#: A call whose JSON is longer travels by its id; the worker reads it from the ledger.
INLINE_LIMIT = 32 * 1024


def body_of(call: ToolCall, limit: int) -> str:
    """The JSON of a call, of at most ``limit`` bytes.

    Raises:
        InvalidArguments: it has none.
        PayloadTooLarge: it has more.
    """
    try:
        body = call.model_dump_json()
    except ValueError as error:
        # A lone surrogate, as a model's broken escape leaves it, has no UTF-8.
        raise InvalidArguments(f"arguments of {call.name} cannot be written as JSON: {error}") from None
    # A character has at most four bytes: most calls are told small enough without being encoded.
    if len(body) * 4 > limit and (size := len(body.encode())) > limit:
        raise PayloadTooLarge(f"call {call.call_id} has {size} bytes of JSON; max_payload allows {limit}")
    return body


@dataclass(frozen=True, slots=True)
class Parcel:
    """One item for a worker: a call with its JSON ``body``, or a control item without a call."""

    holder: Holder
    call: ToolCall | None = None
    body: str = ""
    control: dict[str, Any] | None = None

    def wire(self) -> dict[str, Any]:
        """The item as it stands in the Celery message."""
        where = {"boot": self.holder.boot, "epoch": self.holder.epoch}
        if self.call is None:
            return {**where, **(self.control or {})}
        if len(self.body) > INLINE_LIMIT:
            item = {"ref": self.call.call_id, "trajectory": self.call.trajectory_id}
        else:
            item = {"body": self.body}
        return {**where, "op": "call", "parallel": self.call.parallel, **item}


class Publisher:
    """All publishing of one producer. Kombu blocks and is not thread-safe, so one thread does it for every worker."""

    def __init__(self, app: Celery, state: FleetState, producer: str, patience: float) -> None:
        self._app = app
        self._state = state
        self._producer = producer
        self._patience = patience
        self._lanes: dict[str, Coalescer[Parcel, str]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="toolfleet-publish")
        self._kombu: Any = None

    async def send(self, parcel: Parcel) -> str:
        """Hand ``parcel`` to its worker; the ledger's verdict (see ``submit.lua``), ``sent`` for a control item.

        Raises:
            redis.exceptions.ConnectionError, kombu.exceptions.OperationalError: Redis stayed away for too long.
        """
        worker = parcel.holder.worker
        lane = self._lanes.get(worker)
        if lane is None:
            lane = self._lanes[worker] = Coalescer(lambda batch: self._send_batch(worker, batch))
        return await lane.put(parcel)

    async def keep_queues(self) -> None:
        """Renew the TTL of every queue that was published to."""
        if self._lanes:
            await self._state.keep_queues(self._lanes)

    async def close(self) -> None:
        """Wait for what is under way, then end the thread."""
        for lane in self._lanes.values():
            await lane.idle()
        await self.keep_queues()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=True)

    async def _send_batch(self, worker: str, batch: Sequence[Parcel]) -> list[str]:
        entered = [(p.call, p.holder, p.body) for p in batch if p.call is not None]
        answers = iter(await self._enter(entered) if entered else [])
        verdicts = [next(answers) if p.call is not None else "sent" for p in batch]
        items = [p.wire() for p, verdict in zip(batch, verdicts, strict=True) if verdict in ("queued", "again", "sent")]
        if items:
            await self._publish(worker, items)
        return verdicts

    async def _enter(self, calls: list[tuple[ToolCall, Holder, str]]) -> list[str]:
        return await persist(lambda: self._state.submit(self._producer, calls), self._patience)

    async def _publish(self, worker: str, items: list[dict[str, Any]]) -> None:
        loop = asyncio.get_running_loop()

        async def publish() -> None:
            await loop.run_in_executor(self._thread, self._publish_blocking, worker, items)

        await persist(publish, self._patience, (OperationalError, *OUTAGES))

    def _publish_blocking(self, worker: str, items: list[dict[str, Any]]) -> None:
        if self._kombu is None:
            self._kombu = self._app.amqp.Producer(self._app.connection_for_write())
        try:
            # The nameless exchange leads straight to the queue: no binding is looked up, and none is left behind.
            # Celery's router would replace it by the default queue, so the message is made and sent one level below.
            amqp, task_id = self._app.amqp, new_id("carry")
            name = keys.queue(self._state.fleet, worker)
            # Nobody reads Celery's picture of the arguments, and drawing it costs more than sending them.
            message = amqp.create_task_message(
                task_id, ACCEPT, args=[items], argsrepr="", kwargsrepr="", ignore_result=True
            )
            amqp.send_task_message(
                self._kombu,
                ACCEPT,
                message,
                queue=Queue(name, exchange=Exchange(""), routing_key=name),
                declare=[],
                serializer="json",
                retry=False,
            )
        except redis.exceptions.ResponseError as error:
            self._disconnect()
            raise refused_for_now(error) or error from None
        except Exception:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._kombu is not None:
            connection = self._kombu.connection
            self._kombu = None
            connection.release()
