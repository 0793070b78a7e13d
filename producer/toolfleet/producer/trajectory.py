"""A trajectory as its producer sees it: where its calls go, and in which order."""

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import ValidationError

from toolfleet.config.answers import Holder, Route
from toolfleet.config.contract import MAX_FORKS, Beginning, Status, ToolCall, ToolResult, new_id
from toolfleet.config.errors import (
    FleetSaturated,
    ForkFailed,
    InvalidCall,
    NoWorkerForProfile,
    SpecRefused,
    TrajectoryClosed,
)
from toolfleet.config.snapshots import Origin
from toolfleet.producer.transfer import MOST, Moved, Transfer
from toolfleet.producer.trees import Tree

if TYPE_CHECKING:
    from toolfleet.producer.fleet import Fleet

#: Seconds after which a waiting trajectory asks again, in case Redis forgot the waiting room.
ASK_AGAIN = 10.0


class Trajectory:
    """One rollout: its calls run in one sandbox, in the order in which they are made.

    Made by `Fleet.trajectory`. Closing it destroys the sandbox; leaving the ``async with`` block does that.
    """

    def __init__(
        self,
        fleet: "Fleet",
        trajectory_id: str,
        profile: str,
        sweep: str,
        beginning: Beginning,
        origin: Origin | None = None,
    ) -> None:
        self.id = trajectory_id
        self.profile = profile
        self.sweep = sweep
        self._fleet = fleet
        self.beginning = beginning
        self.origin = origin
        """What its first workspace is a copy of, in a trajectory that was made by `fork`."""
        self._holder: Holder | None = None
        self._placing: asyncio.Task[Holder] | None = None
        self._closed = False
        self._epoch = 0  # the highest under which a worker was known to hold it
        self.forgotten = 0
        """The highest epoch that Redis has forgotten, and no worker has remembered: its workspace is gone."""
        #: Seconds that calls made earlier and not ended yet may still take.
        self.ahead = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | str,
        *,
        timeout: float | None = None,
        parallel: bool = False,
        call_id: str | None = None,
    ) -> ToolResult:
        """Run one tool and wait for its result; cancelling the wait cancels the call.

        Args:
            name: the tool's name.
            arguments: its arguments, or their JSON text as a model wrote it.
            timeout: seconds the tool may run; None takes the argument ``timeout``, then the profile's default.
            parallel: may overlap with other calls of this trajectory.
            call_id: an id of your own; submitting it again never runs the call again.

        Raises:
            TrajectoryClosed: the trajectory takes no more calls.
            FleetSaturated: no slot became free in time.
            NoWorkerForProfile: no worker serves the profile.
            InvalidCall: it can never run, e.g. because its arguments have no JSON.
            PayloadTooLarge: the call is larger than the setting ``max_payload``.
        """
        self.check_open()
        try:
            call = self._new_call(name, arguments, timeout, parallel, call_id or new_id("call"))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
            raise InvalidCall(f"this call cannot be made: {wrong}") from None
        return await self._fleet.execute(self, call)

    async def terminal(
        self,
        command: str,
        *,
        timeout: float | None = None,
        workdir: str | None = None,
        background: bool = False,
        pty: bool = False,
    ) -> ToolResult:
        """Run a shell command; ``workdir`` is where it starts, ``pty`` gives it a terminal.

        With ``background`` it comes back at once; ``detail["session_id"]`` is what `process` wants to know.
        """
        arguments: dict[str, Any] = {"command": command}
        if workdir is not None:
            arguments["workdir"] = workdir
        arguments |= {name: True for name, wanted in (("background", background), ("pty", pty)) if wanted}
        return await self.call("terminal", arguments, timeout=timeout)

    async def process(self, action: str, session_id: str | None = None, **options: Any) -> ToolResult:
        """Look after a background process: list, poll, log, wait, kill, write or submit; see the tool's arguments."""
        arguments = options if session_id is None else {"session_id": session_id, **options}
        return await self.call("process", {"action": action, **arguments})

    async def read_file(self, path: str, *, offset: int = 1, limit: int = 500) -> ToolResult:
        """Read ``limit`` lines of a text file from line ``offset`` (from 1) on."""
        return await self.call("read_file", {"path": path, "offset": offset, "limit": limit})

    async def write_file(self, path: str, content: str) -> ToolResult:
        """Write a text file, with its parent directories."""
        return await self.call("write_file", {"path": path, "content": content})

    async def fork(self, n: int) -> "list[Trajectory]":
        """``n`` new trajectories, each with a copy of this one's workspace as it is after the calls made so far.

        Files are copied, processes are not. This trajectory goes on, and calls made later are no part of the copies. A
        new one takes a slot at its first call, as any other; until then the fleet keeps the copy for it, for as long as
        this producer lives. Close each of them.

        Raises:
            ForkFailed: no copy was made; the error's ``result`` says why and whose fault it is.
            SpecRefused: sandboxes of this profile or backend cannot be saved.
            InvalidCall: ``n`` is not a number from 1 to 1000.
            TrajectoryClosed, FleetSaturated, NoWorkerForProfile: see `call`.
        """
        self.check_open()
        if not 1 <= n <= MAX_FORKS:
            raise InvalidCall(f"cannot fork into {n} trajectories: take 1 to {MAX_FORKS}")
        call = ToolCall(
            call_id=new_id("fork"),
            trajectory_id=self.id,
            name="fork",
            children=tuple(new_id("t") for _ in range(n)),
            producer=self._fleet.producer_id,
            profile=self.profile,
        )
        result = await self._fleet.execute(self, call)
        if result.status is Status.REJECTED:
            raise SpecRefused(f"trajectory {self.id} cannot be forked: {result.error}")
        if result.status is not Status.OK:
            raise ForkFailed(f"trajectory {self.id} was not forked ({result.status}): {result.error}", result)
        origin = Origin(**result.detail)
        return [self._fleet.forked(self, child, origin) for child in call.children]

    async def upload(self, local: str | Path, remote: str, *, mode: int | None = None) -> Moved:
        """Copy a file of this machine, of any size and content, to the path ``remote`` of the sandbox.

        It appears there as a whole, checked by its SHA-256, with the permissions of ``local`` or ``mode``; missing
        directories are made. Memory does not depend on its size.

        Raises:
            LocalFileError: it cannot be read.
            RemoteFileError: it cannot be written.
            TransferInterrupted: the fleet failed, or the workspace is gone.
        """
        return await Transfer(self).upload(Path(local), remote, mode)

    async def download(self, remote: str, local: str | Path, *, max_bytes: int = MOST) -> Moved:
        """Copy the file ``remote`` of the sandbox to this machine; see `upload`.

        Raises:
            RemoteFileError: it is no file, changes meanwhile, or has more than ``max_bytes``.
            LocalFileError: it cannot be written.
            TransferInterrupted: the fleet failed, or the workspace is gone.
        """
        return await Transfer(self).download(remote, Path(local), max_bytes)

    async def upload_dir(self, local: str | Path, remote: str) -> Tree:
        """Copy what is below a directory into the directory ``remote``, which is made; see `upload`.

        Permissions, times, links and empty directories are kept. Links that lead out of the tree, devices, sockets and
        FIFOs are left out, and named in the answer.
        """
        return await Transfer(self).upload_dir(Path(local), remote)

    async def download_dir(self, remote: str, local: str | Path, *, max_bytes: int = MOST) -> Tree:
        """Copy what is below the directory ``remote`` into the directory ``local``; see `download` and `upload_dir`.

        Nothing is written outside ``local``, whatever the sandbox sends. A new or empty ``local`` appears as a whole.
        """
        return await Transfer(self).download_dir(remote, Path(local), max_bytes)

    async def close(self) -> None:
        """End the trajectory after the calls made so far; its sandbox is destroyed. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._placing and not self._placing.done():
            self._placing.cancel()
        await self._fleet.close_trajectory(self)

    async def own_call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        timeout: float,
        *,
        parallel: bool = False,
        content: bytes | None = None,
    ) -> ToolResult:
        """Call a hidden tool, with ``content`` laid beside the ledger for it."""
        self.check_open()
        call = self._new_call(name, arguments, timeout, parallel, new_id("own"), own=True)
        if content is None:
            return await self._fleet.execute(self, call)
        # Laid beside the ledger for as long as the call takes.
        state = self._fleet.state
        try:
            await self._fleet.patiently(lambda: state.put_part(call.call_id, content))
            return await self._fleet.execute(self, call)
        finally:
            self._fleet.errand(state.drop_part(call.call_id))

    @property
    def parts(self) -> asyncio.Semaphore:
        """See `Fleet.parts`."""
        return self._fleet.parts

    async def content_of(self, result: ToolResult) -> bytes | None:
        """What the worker has laid beside the ledger for ``result``; it can be had once."""
        state = self._fleet.state
        content = await self._fleet.patiently(lambda: state.part(result.call_id))
        self._fleet.errand(state.drop_part(result.call_id))
        return content

    def errand(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have ``work`` done beside the caller; the fleet waits for it when it closes."""
        self._fleet.errand(work)

    def _new_call(
        self,
        name: str,
        arguments: Mapping[str, Any] | str,
        timeout: float | None,
        parallel: bool,
        call_id: str,
        *,
        own: bool = False,
    ) -> ToolCall:
        return ToolCall(
            call_id=call_id,
            trajectory_id=self.id,
            name=name,
            arguments=arguments if isinstance(arguments, str) else dict(arguments),
            timeout=timeout,
            parallel=parallel,
            own=own,
            producer=self._fleet.producer_id,
            profile=self.profile,
        )

    def check_open(self) -> None:
        """Raise `TrajectoryClosed` when the trajectory takes no more calls."""
        if self._closed:
            raise TrajectoryClosed(f"trajectory {self.id} is closed; open a new one")

    async def place(self) -> Holder:
        """The worker that serves this trajectory; waits for a slot when there is none."""
        if self._holder is not None:
            return self._holder
        if self._placing is None or self._placing.done():
            self._placing = asyncio.create_task(self._find_slot())
        # Shielded: one caller that gives up must not take the place from the others.
        return await asyncio.shield(self._placing)

    def forget(self, holder: Holder) -> None:
        """The lease is not with ``holder`` any more: route anew at the next call."""
        self._epoch = max(self._epoch, holder.epoch)
        if self._holder == holder:
            self._holder = None

    async def _find_slot(self) -> Holder:
        give_up = time.monotonic() + self._fleet.settings.wait_timeout
        placed = self._fleet.expect_place(self.id)
        try:
            while True:
                left = give_up - time.monotonic()
                route = await self._route(max(left, 0.0))
                if route.holder is not None:
                    self._holder = route.holder
                    return route.holder
                if left <= 0:
                    break
                await asyncio.wait([placed], timeout=min(left, ASK_AGAIN))
                if placed.done():
                    self._holder = placed.result()
                    return self._holder
            late = await self._fleet.patiently(lambda: self._fleet.state.leave(self.id))
            if late is None:
                raise FleetSaturated(
                    f"no slot became free for trajectory {self.id} within {self._fleet.settings.wait_timeout:g} s; "
                    "add workers or slots, or raise wait_timeout"
                )
            self._holder = late
            return late
        finally:
            self._fleet.forget_place(self.id)

    async def _route(self, wait: float) -> Route:
        """Ask for a slot; an empty fleet is given time to come up, a profile that nobody serves is an error.

        A Redis that has lost its state is given time to learn the lease again from its holder.
        """
        fleet = self._fleet
        patience = time.monotonic() + fleet.settings.start_timeout
        all_heard = time.monotonic() + 2 * fleet.settings.heartbeat
        remembering = time.monotonic() + fleet.settings.lease_ttl
        forgotten: Literal["", "tell", "told"] = ""
        origin = self.origin
        while True:
            ask = partial(
                fleet.state.route,
                self.id,
                fleet.producer_id,
                self.profile,
                sweep=self.sweep,
                beginning=self.beginning,
                wait=wait,
                known_epoch=self._epoch,
                forgotten=forgotten,
                judge=fleet.contact.steady,
                origin=origin,
            )
            route = await fleet.patiently(ask)
            if route.verdict == "forgotten":
                if time.monotonic() > remembering:
                    forgotten = "told" if fleet.entered(self, self._epoch) else "tell"
                    self.forgotten = self._epoch
                else:
                    await asyncio.sleep(0.2)
                continue
            if route.verdict == "closed":
                raise TrajectoryClosed(f"trajectory {self.id} was closed; open a new one under another id")
            if route.verdict == "full":
                raise FleetSaturated(f"{fleet.settings.waiting_room} trajectories wait for a slot already")
            if route.verdict != "unserved":
                return route
            if origin and origin.place and time.monotonic() > remembering:
                # Who could read the copy is gone. Any worker will tell that it is lost.
                origin = origin._replace(place="")
                continue
            workers = await fleet.patiently(fleet.state.workers)
            # One may have announced itself between the two questions.
            served = any(f"serves:{self.profile}" in worker for worker in workers.values())
            # While a fleet comes up, or announces itself to an empty Redis, some are heard before others.
            if not served and time.monotonic() > (all_heard if workers else patience):
                raise NoWorkerForProfile(_nobody(self.profile, workers))
            await asyncio.sleep(0.2)


def _nobody(profile: str, workers: dict[str, dict[str, str]]) -> str:
    if not workers:
        return "no worker is alive; start one with `toolfleet worker`"
    served = {field.removeprefix("serves:") for w in workers.values() for field in w if field.startswith("serves:")}
    return f"no live worker serves the profile {profile!r}; they serve {json.dumps(sorted(served))}"
