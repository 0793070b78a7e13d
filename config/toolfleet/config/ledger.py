"""The ledger of calls: the truth about each one, from its submission to its result."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

from toolfleet.config.answers import Finished, text
from toolfleet.config.carriage import Envelope, Parcel
from toolfleet.config.contract import ToolCall, ToolResult
from toolfleet.config.lua import Scripts

#: Milliseconds that Celery's own keys stay after the last message, or the last heartbeat of any worker.
BROKER_KEEP = 7 * 24 * 3600 * 1000


class Ledger(Scripts):
    """One typed method for every script about calls."""

    async def submit(self, producer: str, parcels: Iterable[Parcel], envelope: Envelope | None = None) -> list[str]:
        """Enter the calls of ``parcels`` in the ledger, and put all that may go into one message; one verdict each.

        Without an ``envelope`` nothing is sent.
        """
        flat = [field for parcel in parcels for field in parcel.fields()]
        queue = envelope or ("", "", "")
        args = (producer, self._keep, self._keep, *queue, BROKER_KEEP)
        return [text(v) for v in await self._run("submit", *args, *flat)]

    async def start(
        self, boot: str, calls: Sequence[tuple[ToolCall, int, str]], *, outside: Collection[str] = ()
    ) -> list[tuple[str, float]]:
        """Pass the gate before running calls (call, epoch, token); (verdict, seconds since submission) each.

        ``outside`` has the ids of those that run outside the sandbox.
        """
        flat = [
            value
            for call, epoch, token in calls
            for value in (call.call_id, call.trajectory_id, epoch, token, int(call.call_id in outside))
        ]
        found = [text(v) for v in await self._run("start", boot, *flat)]
        return [(verdict, float(ms) / 1000) for verdict, ms in zip(found[::2], found[1::2], strict=True)]

    async def finish(self, boot: str, results: Sequence[Finished]) -> list[str]:
        """Record results and hand them to their producers; one verdict each."""
        flat: list[str | int] = []
        for result, epoch in results:
            told = int(result.status == "lost")
            flat += [result.call_id, result.trajectory_id, epoch, result.model_dump_json(), told]
        return [text(v) for v in await self._run("finish", boot, self._result_keep, *flat)]

    async def give_up(
        self, call: ToolCall, if_queued: ToolResult, if_started: ToolResult | None
    ) -> tuple[str, str, ToolResult | None]:
        """End a call from the producer's side; (verdict, worker, the result that stands)."""
        started = if_started.model_dump_json() if if_started else ""
        found = await self._run(
            "give_up",
            call.call_id,
            call.trajectory_id,
            if_queued.model_dump_json(),
            started,
            self._result_keep,
        )
        result = ToolResult.model_validate_json(found[2]) if found[2] else None
        return text(found[0]), text(found[1]), result

    async def look(self, call_ids: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """State (empty when unknown) and result, if there is one, of each of those calls."""
        if not call_ids:
            return []
        async with self.redis.pipeline(transaction=False) as pipe:
            for call_id in call_ids:
                pipe.hmget(self.key("call", call_id), ["state", "result"])
            return [(text(state or ""), result) for state, result in await pipe.execute()]

    async def under_way(self, call_id: str, boot: str, epoch: int) -> bool:
        """Whether the ledger takes a call for started by that very process, in that epoch."""
        found = await self.redis.hmget(self.key("call", call_id), ["state", "boot", "epoch"])
        return [text(value or "") for value in found] == ["started", boot, str(epoch)]

    async def body(self, call_id: str) -> bytes | None:
        """The JSON of an open call, for those too large to travel in a message."""
        return cast("bytes | None", await self.redis.hget(self.key("call", call_id), "body"))

    async def bounce(self, call: ToolCall) -> None:
        """Tell the producer that its call came to a worker that does not hold the lease."""
        if await self.redis.exists(self.key("producer", call.producer)):
            entry = {"kind": "moved", "id": call.call_id, "body": call.trajectory_id}
            async with self.redis.pipeline(transaction=False) as pipe:
                pipe.xadd(self.key("replies", call.producer), cast(Any, entry))
                pipe.pexpire(self.key("replies", call.producer), self._keep)
                await pipe.execute()
