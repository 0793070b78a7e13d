"""Carries items to the queue of one worker: into the ledger, and out as one Celery message a batch."""

from collections.abc import Sequence

from celery import Celery

from toolfleet.config.carriage import Envelope, Parcel
from toolfleet.config.celery_app import envelope
from toolfleet.config.coalesce import Coalescer
from toolfleet.config.contract import ToolCall
from toolfleet.config.errors import InvalidArguments, PayloadTooLarge
from toolfleet.config.patience import persist
from toolfleet.config.state import FleetState


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


class Publisher:
    """All publishing of one producer, a lane for each worker."""

    def __init__(self, app: Celery, state: FleetState, producer: str, patience: float) -> None:
        self._app = app
        self._state = state
        self._producer = producer
        self._patience = patience
        self._lanes: dict[str, Coalescer[Parcel, str]] = {}

    async def send(self, parcel: Parcel) -> str:
        """Hand ``parcel`` to its worker; the ledger's verdict (see ``submit.lua``).

        Raises:
            redis.exceptions.ConnectionError: Redis stayed away for too long.
        """
        worker = parcel.holder.worker
        lane = self._lanes.get(worker)
        if lane is None:
            addressed = envelope(self._app, self._state.fleet, worker)
            lane = self._lanes[worker] = Coalescer(lambda batch: self._send_batch(addressed, batch))
        return await lane.put(parcel)

    async def close(self) -> None:
        """Wait for what is under way."""
        for lane in self._lanes.values():
            await lane.idle()

    async def _send_batch(self, addressed: Envelope, batch: Sequence[Parcel]) -> list[str]:
        # Also sent again when only the answer was lost: a call may come to its worker more than once, and runs once.
        return await persist(lambda: self._state.submit(self._producer, batch, addressed), self._patience)
