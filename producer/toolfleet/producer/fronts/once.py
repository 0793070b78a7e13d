"""The same request twice is one call: clients repeat what they got no answer to."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class Once(Generic[R]):
    """Work under way, by key. What has ended is the ledger's to remember."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[R]] = {}

    async def do(self, key: str | None, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """The result of ``work``, or of that under way under the same key.

        It goes on when the waiting is cancelled: whoever asks again finds it. With None as its key it is nobody else's.
        """
        if key is None:
            return await work()
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(work())
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)


def call_id(ident: str, tool: str, arguments: Mapping[str, Any]) -> str:
    """The id of a call that a client names ``ident``.

    Tool and arguments are part of it: an id that is used again for another command must not bring an old answer.
    """
    said = json.dumps([ident, tool, arguments], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]
