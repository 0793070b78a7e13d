"""The leases that this worker holds: one per trajectory, each with its sandbox and its line of calls."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from toolfleet.backends.base import Sandbox
from toolfleet.config.profile import Profile

if TYPE_CHECKING:
    from toolfleet.workers.executor import Run

#: Works off one call, and never raises.
Execute = Callable[["Run"], Awaitable[None]]


class Lease:
    """The right to serve one trajectory in one epoch, and what it takes to do so.

    Calls run one at a time in the order in which they came, except those marked parallel. `close` ends the line.
    """

    def __init__(self, trajectory_id: str, epoch: int) -> None:
        self.trajectory_id = trajectory_id
        self.epoch = epoch
        self.claimed = False
        self.profile = Profile()
        self.setup: list[dict[str, str]] = []
        self.generation = 1
        self.sandbox: Sandbox | None = None
        self.had_sandbox = False
        """A workspace existed in this epoch, so the next sandbox is a new generation."""
        self.lost = ""
        """Cause of a loss that no reply has told yet."""
        self.lock = asyncio.Lock()
        """Held while the lease is claimed and its sandbox made ready."""
        self.active = time.monotonic()
        self.orphaned_since: float | None = None
        self.closing = False
        self._line: deque[Run] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """A call waits or runs."""
        return bool(self._line or self._worker or self._beside)

    def enqueue(self, run: "Run", execute: Execute) -> None:
        """Put a call in line, or beside it when it is parallel."""
        self.active = time.monotonic()
        if run.parallel:
            task = asyncio.create_task(self._one(run, execute))
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)
            return
        self._line.append(run)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(execute))

    def drop_queued(self) -> None:
        """Forget the calls in line that have not begun; the ledger still knows them."""
        self._line.clear()

    async def idle(self) -> None:
        """Wait until every call taken so far has ended."""
        while tasks := [t for t in (self._worker, *self._beside) if t is not None]:
            await asyncio.wait(tasks)

    async def _work(self, execute: Execute) -> None:
        try:
            while self._line:
                await self._one(self._line.popleft(), execute)
        finally:
            self._worker = None

    async def _one(self, run: "Run", execute: Execute) -> None:
        await execute(run)
        self.active = time.monotonic()


class LeaseTable:
    """Every lease of this worker, by trajectory."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def __iter__(self) -> Iterator[Lease]:
        return iter(tuple(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, trajectory_id: str) -> Lease | None:
        """The lease of a trajectory."""
        return self._leases.get(trajectory_id)

    def add(self, trajectory_id: str, epoch: int) -> Lease:
        """A new lease, replacing an older one in the table."""
        lease = self._leases[trajectory_id] = Lease(trajectory_id, epoch)
        return lease

    def remove(self, lease: Lease) -> None:
        """Drop ``lease``, unless a newer one has taken its place."""
        if self._leases.get(lease.trajectory_id) is lease:
            del self._leases[lease.trajectory_id]
