"""Stages: content on its way in or out, in files without a name that the runner holds open.

A stage is filled by `put` or `pack` and emptied by `get`; `commit` and `unpack` use it up. No command can find one,
and nothing of it is left when it is dropped, when nobody touches it for a while, or when the sandbox ends.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from toolfleet.backends.runner import spool
from toolfleet.backends.runner.reactor import Reactor, Timer
from toolfleet.backends.runner.spawn import CannotStart

#: Stages that may be open at once.
MOST = 64
#: Seconds after which a stage that nobody has touched is dropped.
ABANDONED = 600.0
#: Ids of stages that are gone and stay so: a part that was under way when its transfer was given up must not begin it
#: anew.
REMEMBERED = 1000


@dataclass(slots=True)
class _Stage:
    file: int
    expiry: Timer


class Stages:
    """The stages of one sandbox by their id, as their producer has chosen it."""

    def __init__(self, reactor: Reactor, directory: int) -> None:
        self._reactor = reactor
        self._directory = directory
        self._stages: dict[str, _Stage] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()

    def open(self, stage: str) -> int:
        """The file of a stage, which is made when it was never there.

        Raises:
            CannotStart: there are too many, or there is no room for one more.
        """
        if stage not in self._stages and stage not in self._gone:
            if len(self._stages) >= MOST:
                raise CannotStart(f"{MOST} transfers are under way in this sandbox; wait until some have ended")
            try:
                file = spool.unnamed(self._directory)
            except OSError as error:
                raise CannotStart(f"Cannot make room for a transfer: {error.strerror}") from error
            self._stages[stage] = _Stage(file, self._expire(stage))
        return self.find(stage)

    def find(self, stage: str) -> int:
        """The file of a stage that is there.

        Raises:
            CannotStart: it is not.
        """
        found = self._stages.get(stage)
        if found is None:
            raise CannotStart(f"The transfer {stage} is not known here; start it again")
        found.expiry.cancel()
        found.expiry = self._expire(stage)
        return found.file

    def drop(self, stage: str) -> None:
        """Give up a stage for good; a child that has its file goes on with it. Idempotent."""
        self._gone[stage] = None
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        found = self._stages.pop(stage, None)
        if found is not None:
            found.expiry.cancel()
            os.close(found.file)

    def forget(self) -> None:
        """Give up all of them, and their ids."""
        for stage in list(self._stages):
            self.drop(stage)
        self._gone.clear()

    def _expire(self, stage: str) -> Timer:
        return self._reactor.after(ABANDONED, partial(self.drop, stage))
