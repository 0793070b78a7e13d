"""What travels from a producer to a worker: calls and notices, many to a message."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from toolfleet.config.answers import Holder
from toolfleet.config.contract import ToolCall

#: A call whose JSON is longer travels by its id; the worker reads it from the ledger.
INLINE_LIMIT = 32 * 1024


class Envelope(NamedTuple):
    """A message of Celery's but for its items: a JSON array of them, escaped as in a string, goes between the two."""

    queue: str
    """The key of the list in which the transport keeps the messages of one worker."""
    head: str
    tail: str


@dataclass(frozen=True, slots=True)
class Parcel:
    """One item for a worker: a call with its JSON ``body``, or a ``notice`` without a call."""

    holder: Holder
    call: ToolCall | None = None
    body: str = ""
    notice: dict[str, Any] | None = None

    @property
    def inline(self) -> bool:
        """Whether the call itself is in the message, under ``call``."""
        return 0 < len(self.body) <= INLINE_LIMIT

    def wire(self) -> dict[str, Any]:
        """The item as it stands in the message, but for a call that is `inline`."""
        where = {"boot": self.holder.boot, "epoch": self.holder.epoch}
        if self.call is None:
            return {**where, **(self.notice or {})}
        item = {**where, "op": "call", "parallel": self.call.parallel}
        return item if self.inline else {**item, "ref": self.call.call_id, "trajectory": self.call.trajectory_id}

    def fields(self) -> tuple[str | int, ...]:
        """What ``submit.lua`` takes: of the call, then the item as open JSON object, and whether the call is in it."""
        item = json.dumps(self.wire())[:-1]
        call = self.call
        if call is None:
            return "", "", *self.holder, "", "", item, 0
        return call.call_id, call.trajectory_id, *self.holder, call.name, self.body, item, int(self.inline)
