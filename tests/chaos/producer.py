"""A producer under fire: ``python -m chaos.producer`` with one JSON object (see `Plan`) on standard input.

Each trajectory appends the number of every call to a file in its workspace and reads the file back, so that each reply
shows what had run before it. What does not fit goes to standard output as a JSON line, and so does every ending.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from broker import deliver_twice

from toolfleet.config.contract import Fault, Status
from toolfleet.config.errors import ToolfleetError
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet, ToolResult, Trajectory

#: Seconds beyond timeout and start_timeout by which a call must have ended, whatever dies.
GRACE = 20.0
TIMEOUT = 60.0


@dataclass(frozen=True)
class Plan:
    """What one producer does."""

    redis_url: str
    fleet: str
    settings: dict[str, Any]
    prefix: str
    trajectories: int
    calls: int
    seed: int
    longest: float
    """Seconds that a command sleeps at most."""
    twice: int
    """Every how many-th message is sent twice."""
    drop: int
    """Every how many-th result is dropped on its way to whoever awaits it."""


def say(kind: str, **fields: Any) -> None:
    """One line for the run."""
    print(json.dumps({"kind": kind, **fields}), flush=True)


@dataclass
class Line:
    """One trajectory, and what its workspace must hold."""

    name: str
    written: list[int] = field(default_factory=list)
    maybe: int | None = None
    """A number that may have been written or not: its call ended as unknown."""
    epoch: int = 0
    """Of the last result."""

    def command(self, number: int, pause: float) -> str:
        """Append ``number``, wait in the middle of the call, and show everything: owner, then numbers."""
        return (
            f"[ -e /tmp/owner ] || echo {self.name} > /tmp/owner; echo {number} >> /tmp/log; "
            f"sleep {pause:.3f}; cat /tmp/owner /tmp/log"
        )

    def judge(self, number: int, result: ToolResult) -> str | None:
        """What is wrong with a result, or None; learns from it what the workspace holds."""
        if result.status is Status.OK:
            owner, *shown = result.stdout.split()
            numbers = [int(n) for n in shown]
            expected = [*self.written, number]
            if self.maybe is not None and numbers != expected:
                expected = [*self.written, self.maybe, number]
            self.written, self.maybe = expected, None
            if owner != self.name:
                return f"the workspace of {owner}"
            if numbers != expected:
                self.written = numbers
                return f"the workspace holds {numbers[-5:]} where {expected[-5:]} was written"
            return None
        if result.fault is not Fault.INFRASTRUCTURE:
            return f"{result.status} blames {result.fault}: {result.error}"
        if result.status is Status.LOST:
            self.written, self.maybe = [], None
        elif result.status is Status.UNKNOWN:
            self.maybe = number
        elif result.executed != "no":
            return f"{result.status} though executed is {result.executed}"
        return None


class Producer:
    """All trajectories of one producer."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._seen: Counter[str] = Counter()
        self._messages = 0
        self._results = 0

    async def run(self) -> None:
        """Every trajectory at once, until each has made its calls."""
        settings = Settings(redis_url=self._plan.redis_url, fleet=self._plan.fleet, **self._plan.settings)
        async with Fleet.connect(settings) as fleet:
            self._inject(fleet)
            await asyncio.gather(*(self._one(fleet, n) for n in range(self._plan.trajectories)))
            say("end", late=fleet.late_results, statuses=dict(self._seen))

    async def _one(self, fleet: Fleet, number: int) -> None:
        line = Line(f"{self._plan.prefix}-{number}")
        async with fleet.trajectory(line.name) as t:
            for call in range(1, self._plan.calls + 1):
                await self._call(t, line, call)
        say("closed", trajectory=line.name)

    async def _call(self, t: Trajectory, line: Line, number: int) -> None:
        began = time.monotonic()
        pause = self._random.uniform(0, self._plan.longest)
        try:
            async with asyncio.timeout(TIMEOUT + t._fleet.settings.start_timeout + GRACE):
                result = await t.terminal(line.command(number, pause), timeout=TIMEOUT)
        except TimeoutError:
            say("violation", trajectory=t.id, call=number, what="it did not end by its deadline")
            return
        except ToolfleetError as error:
            say("violation", trajectory=t.id, call=number, what=f"{type(error).__name__}: {error}")
            return
        self._seen[result.status] += 1
        if wrong := line.judge(number, result):
            say("violation", trajectory=t.id, call=number, what=wrong, result=result.model_dump(mode="json"))
        if result.status is not Status.OK:
            say(str(result.status), trajectory=t.id, call=number, error=result.error, executed=result.executed)
        elif 0 < line.epoch < result.lease_epoch:
            say("recovered", trajectory=t.id, call=number, epoch=result.lease_epoch, took=time.monotonic() - began)
        line.epoch = result.lease_epoch

    def _inject(self, fleet: Fleet) -> None:
        """Send messages twice and drop replies, as a bad network would."""
        on_reply = fleet._replies._handle

        def twice() -> bool:
            self._messages += 1
            again = self._messages % self._plan.twice == 0
            self._seen["sent twice"] += again
            return again

        def handle(kind: str, ident: str, body: bytes) -> None:
            self._results += kind == "result"
            if kind == "result" and self._results % self._plan.drop == 0:
                self._seen["replies dropped"] += 1
                return
            on_reply(kind, ident, body)

        deliver_twice(fleet, twice)
        fleet._replies._handle = handle


if __name__ == "__main__":
    asyncio.run(Producer(Plan(**json.loads(sys.stdin.readline()))).run())
