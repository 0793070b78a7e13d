"""What travels from a producer to a worker: calls and notices, many to a message."""

import json
from dataclasses import dataclass
from functools import lru_cache
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

    def fields(self) -> tuple[str | int, ...]:
        """What ``submit.lua`` takes: of the call, then the item as open JSON object, and whether the call is in it."""
        call = self.call
        if call is None:
            return "", "", *self.holder, "", "", _open({**_where(self.holder), **(self.notice or {})}), 0
        item = _item(self.holder, call.parallel)
        if not self.inline:
            item = f"{item}, {_open({'ref': call.call_id, 'trajectory': call.trajectory_id})[1:]}"
        return call.call_id, call.trajectory_id, *self.holder, call.name, self.body, item, int(self.inline)


def _where(holder: Holder) -> dict[str, str | int]:
    return {"boot": holder.boot, "epoch": holder.epoch}


def _open(item: dict[str, Any]) -> str:
    """A JSON object without its last brace."""
    return json.dumps(item)[:-1]


@lru_cache(maxsize=4096)
def _item(holder: Holder, parallel: bool) -> str:
    return _open({**_where(holder), "op": "call", "parallel": parallel})
