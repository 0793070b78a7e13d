"""The leases that this worker holds: one per trajectory, each with its sandbox and its line of calls."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from toolfleet.backends.base import Sandbox
from toolfleet.config.contract import Beginning
from toolfleet.config.profile import Profile

if TYPE_CHECKING:
    from toolfleet.workers.run import Run

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
        self.profile_name = "default"
        self.sweep = ""
        self.producer = ""
        self.beginning = Beginning()
        self.origin = ""
        """The snapshot from which the first workspace has yet to start."""
        self.generation = 1
        self.sandbox: Sandbox | None = None
        self.used = False
        """Something has started in the workspace."""
        self.lost = ""
        """Cause of a loss that no reply has told yet."""
        self.lock = asyncio.Lock()
        """Held while the lease is claimed, its sandbox made ready or given up."""
        self.active = self.born = time.monotonic()
        self.saving = False
        """Its sandbox is being saved, and may stand still meanwhile."""
        self.orphaned_since: float | None = None
        self.closing = False
        self.over = False
        """Another worker has it, or nobody: its calls are none of ours any more."""
        self.runs: dict[str, Run] = {}
        """The calls that wait or run here, by id."""
        self._line: deque[Run] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._resumed: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """A call waits or runs."""
        return bool(self._line or self._worker or self._beside)

    def enqueue(self, run: "Run", execute: Execute) -> None:
        """Put a call in line, or beside it when it is parallel."""
        self.active = time.monotonic()
        self.runs.setdefault(run.call_id, run)
        if run.parallel:
            self._run_beside(run, execute)
            return
        self._line.append(run)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(execute))

    def resume(self, run: "Run", execute: Execute) -> None:
        """Go on with a call that an earlier holder started; see `resumed`."""
        self.runs.setdefault(run.call_id, run)
        task = self._run_beside(run, execute)
        self._resumed.add(task)
        task.add_done_callback(self._resumed.discard)

    async def resumed(self) -> None:
        """Wait until the calls of earlier holders have ended: those in line come after them."""
        if self._resumed:
            await asyncio.wait(set(self._resumed))

    def drop_queued(self) -> None:
        """Forget the calls in line that have not begun; the ledger still knows them."""
        for run in self._line:
            self._forget(run)
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

    def _run_beside(self, run: "Run", execute: Execute) -> asyncio.Task[None]:
        task = asyncio.create_task(self._one(run, execute))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def _one(self, run: "Run", execute: Execute) -> None:
        try:
            await execute(run)
        finally:
            self._forget(run)
            self.active = time.monotonic()

    def _forget(self, run: "Run") -> None:
        if self.runs.get(run.call_id) is run:
            del self.runs[run.call_id]


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

    def find(self, call_id: str) -> "Run | None":
        """The call that waits or runs here under that id."""
        return next((lease.runs[call_id] for lease in self if call_id in lease.runs), None)

    def add(self, trajectory_id: str, epoch: int) -> Lease:
        """A new lease, replacing an older one in the table."""
        lease = self._leases[trajectory_id] = Lease(trajectory_id, epoch)
        return lease

    def remove(self, lease: Lease) -> None:
        """Drop ``lease``, unless a newer one has taken its place."""
        if self._leases.get(lease.trajectory_id) is lease:
            del self._leases[lease.trajectory_id]
