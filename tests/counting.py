"""Trajectories that count: each call appends the next number to a file and shows it, so that whatever is lost, run
twice or out of order can be read off the last result."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from toolfleet.config.contract import Status
from toolfleet.producer import Fleet, ToolResult, Trajectory

#: Results of each trajectory that make a fact: before a fault, and after it.
SOME = 3


class Counting:
    """Several trajectories that count, until they are told to stop."""

    def __init__(self, fleet: Fleet, many: int) -> None:
        self.results: dict[str, list[ToolResult]] = {}
        self._stopping = False
        self._open = [fleet.trajectory(f"t{number}") for number in range(many)]
        self._tasks = [asyncio.create_task(self._count(t)) for t in self._open]

    async def more(self) -> None:
        """Wait until every trajectory has had some more results."""
        goals = {t: len(results) + SOME for t, results in self.results.items()}
        while any(len(self.results[t]) < goal for t, goal in goals.items()):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Let every trajectory finish its call, and close it."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        for t in self._open:
            await t.close()

    def check(self) -> None:
        """Nothing was lost, nothing ran twice, every call ended, and in its order."""
        for results in self.results.values():
            failed = [(r.status, r.workspace_generation, r.error) for r in results if r.status is not Status.OK]
            assert not failed, failed
            assert {r.workspace_generation for r in results} == {1}
            assert results[-1].stdout.split() == [str(n) for n in range(1, len(results) + 1)]
            assert len({r.call_id for r in results}) == len(results)

    async def _count(self, t: Trajectory) -> None:
        results = self.results[t.id] = []
        while not self._stopping:
            results.append(await t.terminal(f"echo {len(results) + 1} >> /tmp/n; cat /tmp/n"))

    def cancel(self) -> None:
        """Give up: the test has failed."""
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def counting(fleet: Fleet, many: int = 4) -> AsyncIterator[Counting]:
    """Trajectories that have begun to count, and that are checked at the end."""
    made = Counting(fleet, many)
    try:
        await asyncio.sleep(0)
        await made.more()
        yield made
        await made.more()
        await made.stop()
        made.check()
    finally:
        made.cancel()
