"""One call, as a sentence of named steps: decode, fence, admit, start, run, classify, record."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from tenacity import RetryCallState

from toolfleet.backends.base import Outcome
from toolfleet.backends.channel import Fenced
from toolfleet.config.connection import OUTAGES
from toolfleet.config.contract import Status, ToolCall, ToolResult, clamp_timeout
from toolfleet.config.errors import (
    BackendError,
    InvalidCall,
    SandboxLost,
    SnapshotLost,
    SpecRefused,
    ToolDenied,
    UnknownTool,
)
from toolfleet.config.patience import persist
from toolfleet.config.state import FleetState
from toolfleet.config.tools import parse
from toolfleet.workers import beside
from toolfleet.workers.errands import Errand, Errands
from toolfleet.workers.leases import Lease
from toolfleet.workers.ledger import Ledger
from toolfleet.workers.run import Dropped, Ended, Run
from toolfleet.workers.saving import NotWanted, Saver
from toolfleet.workers.tenancy import HeldElsewhere, Tenancy
from toolfleet.workers.text import NOTHING, decode_streams, fit_output
from toolfleet.workers.tools import OutsideTool, Plan, Seen, ToolRegistry, advance, plainly

log = logging.getLogger(__name__)


class Executor:
    """Takes a call through its steps. Every step is a method of one argument and may raise `Ended` or `Dropped`."""

    def __init__(
        self, worker_id: str, boot: str, state: FleetState, ledger: Ledger, tenancy: Tenancy, saver: Saver,
        tools: ToolRegistry,
        on_event: Callable[[str, Run, ToolResult | None], None],
    ) -> None:  # fmt: skip
        self._worker_id = worker_id
        self._boot = boot
        self._state = state
        self._ledger = ledger
        self._tenancy = tenancy
        self._saver = saver
        self._tools = tools
        self._event = on_event
        self._errands = Errands(tenancy.retries, lambda run: on_event("task-retried", run, None))

    async def execute(self, run: Run) -> None:
        """All steps; never raises, whatever goes wrong in one of them."""
        await self._carry(run, self._steps)

    async def resume(self, run: Run) -> None:
        """Bring home a call that an earlier holder of the lease had started; never raises either.

        The runner answers by the call's id: with the outcome, or when it comes. A call that it has never seen had
        passed the gate and gone no further: it runs now, for the first time, and its holder of then is fenced.
        """
        await self._carry(run, self._resumed_steps)

    async def take_up(self, lease: Lease) -> None:
        """Learn what a lease is, and bring home what an earlier holder had started in it. Idempotent.

        Raises:
            HeldElsewhere: it is not ours any more.
        """
        async with lease.lock:
            if not lease.claimed:
                for call_id in await self._tenancy.take_up(lease):
                    lease.resume(Run(lease, None, call_id, self._worker_id), self.resume)

    async def _carry(self, run: Run, steps: Callable[[Run], Awaitable[None]]) -> None:
        run.begun = time.monotonic()
        try:
            try:
                await steps(run)
                result = self.classify(run)
            except Ended as end:
                result = end.result
            except (Dropped, asyncio.CancelledError):
                raise
            except Exception as error:
                log.exception("call %s broke the worker", run.call_id)
                result = self.broken(run, error)
            await self.record(run, result)
        except Dropped as why:
            log.info("call %s dropped: %s", run.call_id, why)
        except Exception:
            log.exception("the result of call %s could not be recorded", run.call_id)

    async def _steps(self, run: Run) -> None:
        await self.fetch(run)
        await self.fence(run)
        self.decode(run)
        await self.admit(run)
        await self.start(run)
        await self.run(run)

    async def _resumed_steps(self, run: Run) -> None:
        run.started = True
        await self.fetch(run)
        self.decode(run)
        if run.errand is not None:
            raise Ended(self._errands.abandoned(run))
        run.sandbox = run.lease.sandbox
        await self.run(run)

    async def fetch(self, run: Run) -> None:
        """Read the call from the ledger when it was too large to travel in its message."""
        if run.call is None:
            body = await persist(lambda: self._state.body(run.call_id), self._tenancy.patience)
            if body is None:
                raise Dropped("it has ended")
            run.call = ToolCall.model_validate_json(body)
        self._event("task-received", run, None)

    async def fence(self, run: Run) -> None:
        """Only the holder of the lease goes on; the first reply after a loss tells the loss."""
        lease = run.lease
        if not lease.claimed:
            try:
                await self.take_up(lease)
            except HeldElsewhere:
                await persist(lambda: self._state.bounce(run.require()), self._tenancy.patience)
                raise Dropped("the lease is held elsewhere") from None
            except OUTAGES as error:
                raise Ended(run.end(Status.FAILED, executed="no", error=f"Redis did not answer: {error}")) from None
        if not run.parallel:
            await lease.resumed()
        if run.cancelled:
            raise Ended(run.end(Status.CANCELLED, executed="no", error="cancelled before it started"))
        if lease.lost:
            raise Ended(self._lost(run, lease.lost, executed="no"))

    def decode(self, run: Run) -> None:
        """Find the tool and check the arguments; what does not fit is rejected."""
        call, profile = run.require(), run.lease.profile
        if call.children:
            return
        try:
            tool = self._tools.find(call.name, hidden=call.own)
            if profile.tools is not None and not tool.definition.hidden and tool.definition.name not in profile.tools:
                raise ToolDenied(f"the profile {call.profile!r} does not allow the tool {call.name!r}")
            arguments = parse(tool.definition, call.arguments)
            asked = next((t for t in (call.timeout, arguments.timeout) if t is not None), profile.default_timeout)
            run.timeout = clamp_timeout(asked, profile.max_timeout)
            if isinstance(tool, OutsideTool):
                run.errand = Errand(tool, arguments)
                return
            run.steps, run.slow = tool.steps(arguments), tool.slow
            run.ask(next(run.steps))
        except (InvalidCall, ValueError) as error:
            raise Ended(self._refused(run, error)) from None

    async def admit(self, run: Run) -> None:
        """Make sure that the trajectory has a sandbox; failures are retried, for nothing has started yet."""
        if run.errand is not None:
            return
        lease = run.lease
        run.sandbox = lease.sandbox
        if run.sandbox is None:
            async with lease.lock:
                if lease.over:
                    raise Dropped("the lease is held elsewhere")
                if lease.sandbox is None:
                    await self._furnish(run)
                run.sandbox = lease.sandbox

    async def start(self, run: Run) -> None:
        """Pass the gate of the ledger: at most once for each call, and only as holder of the lease."""
        run.ready = time.monotonic()
        try:
            verdict, run.submitted_ago = await self._ledger.start(run)
        except OUTAGES as error:
            raise Ended(run.end(Status.FAILED, executed="no", error=f"Redis did not answer: {error}")) from None
        if verdict == "duplicate" and await self._forgotten(run):
            verdict = "go"
        if verdict != "go":
            raise Dropped(verdict)
        run.started = True
        run.lease.used |= run.errand is None
        self._event("task-started", run, None)

    async def run(self, run: Run) -> None:
        """Run it, request by request. It has started now: whatever happens, it is not tried again."""
        if run.require().children:
            raise Ended(await self._save(run))
        if run.errand is not None:
            raise Ended(await self._errands.run(run))
        while run.shown is None:
            outcome = await self._request(run)
            binary = run.plan is not None and run.plan.binary
            run.outcome, run.streams = outcome, (NOTHING, NOTHING) if binary else decode_streams(outcome)
            run.ran += outcome.ran
            if outcome.timed_out or outcome.cancelled or outcome.detail.get("forgotten"):
                return
            await self._advance(run)

    def classify(self, run: Run) -> ToolResult:
        """Turn the runner's outcome into a result. Nothing that a command printed takes part in the status."""
        outcome = run.outcome
        if outcome is None:
            raise AssertionError("run comes first")
        if outcome.detail.get("forgotten"):
            return run.end(Status.UNKNOWN, executed="unknown", error=outcome.error)
        stdout, stderr = run.streams
        shown = run.shown or plainly(Seen(outcome, stdout.text, stderr.text))
        output, cut = fit_output(shown.output)
        status, error, detail = Status.OK, shown.error, shown.detail
        if outcome.timed_out:
            status, error = Status.TIMEOUT, f"timed out after {run.timeout:g} s"
            detail = {**detail, "timeout": run.timeout}
        elif outcome.cancelled:
            status, error = Status.CANCELLED, "cancelled while it ran"
        return run.end(
            status,
            executed="yes",
            error=error,
            output=output,
            stdout=stdout.text if shown.stdout is None else fit_output(shown.stdout)[0],
            stderr=stderr.text,
            exit_code=shown.exit_code,
            truncated=bool(cut or shown.truncated or stdout.dropped or stderr.dropped),
            bytes_dropped=stdout.dropped + stderr.dropped,
            detail=detail,
        )

    def broken(self, run: Run, error: Exception) -> ToolResult:
        """An error of our own, told as what it is."""
        executed = "unknown" if run.started else "no"
        status = Status.UNKNOWN if run.started else Status.FAILED
        return run.end(status, executed=executed, error=f"internal error: {type(error).__name__}: {error}")

    async def record(self, run: Run, result: ToolResult) -> None:
        """Enter the result in the ledger, which hands it to the producer once."""
        if run.shown is not None:
            await beside.leave(self._state, run.call_id, run.shown.content, self._tenancy.patience)
        verdict = await self._ledger.finish(result, run.lease.epoch)
        self._event("ended", run, result)
        if verdict == "done" and result.status is Status.LOST:
            run.lease.lost = ""  # told: the next call may go on in a new workspace
        if verdict != "done":
            raise Dropped(f"its result is {verdict}")

    # -- parts of steps

    async def _save(self, run: Run) -> ToolResult:
        """Save the workspace as it is after the calls before this one; how that call ends."""
        call, lease, sandbox, began = run.require(), run.lease, run.sandbox, time.monotonic()
        if sandbox is None:
            return self._lost(run, lease.lost or "its sandbox is gone", executed="unknown")
        try:
            origin = await self._saver.save(lease, sandbox, call)
        except (NotWanted, Fenced):
            raise Dropped("its workspace is another worker's by now, or nobody waits for the copy") from None
        except SpecRefused as error:
            return run.end(Status.REJECTED, executed="no", error=str(error))
        except SandboxLost as error:
            await self._forget_sandbox(run, str(error))
            return self._lost(run, str(error), executed="unknown")
        except (BackendError, *OUTAGES) as error:
            return run.end(Status.FAILED, executed="no", error=f"the workspace could not be saved: {error}")
        run.ran = time.monotonic() - began
        if run.cancelled:
            return run.end(Status.CANCELLED, executed="yes", error="cancelled while it ran")
        return run.end(Status.OK, executed="yes", detail=origin._asdict())

    async def _request(self, run: Run) -> Outcome:
        if run.request is None:
            raise AssertionError("decode comes first")
        first = run.requests == 1
        if run.sandbox is None:
            raise Ended(self._lost(run, run.lease.lost or "its sandbox is gone", executed="unknown"))
        began = time.monotonic()
        try:
            if run.cancelled:
                why = "cancelled before it started" if first else "cancelled while it ran"
                raise Ended(run.end(Status.CANCELLED, executed="no" if first else "yes", error=why))
            if run.plan is not None and run.plan.content_beside:
                content = await beside.fetch(self._state, run.sandbox, run.call_id, self._tenancy.patience)
                run.request = replace(run.request, body=content)
            return await run.sandbox.run(run.request)
        except beside.Missing as error:
            raise Ended(run.end(Status.FAILED, executed="no", error=str(error))) from None
        except Fenced:
            raise Dropped("the sandbox is another worker's by now") from None
        except SandboxLost as error:
            run.ran += time.monotonic() - began
            await self._forget_sandbox(run, str(error))
            executed: Literal["no", "unknown"] = "no" if first and not error.sent else "unknown"
            raise Ended(self._lost(run, str(error), executed=executed)) from None

    async def _advance(self, run: Run) -> None:
        """Let the tool see the outcome, and learn its next request or what it says in the end."""
        if run.steps is None or run.outcome is None:
            raise AssertionError("decode and a request come first")
        stdout, stderr = run.streams
        go_on = partial(advance, run.steps, Seen(run.outcome, stdout.text, stderr.text))
        said = await asyncio.to_thread(go_on) if run.slow else go_on()
        if isinstance(said, Plan):
            run.ask(said)
        else:
            run.shown = said

    async def _forgotten(self, run: Run) -> bool:
        """Whether Redis has lost the result of a call that ran here, so that its producer sent it once more.

        Whatever ran in this trajectory's line has ended by now, and the runner has the outcome. A sandbox that does not
        know the call is another one than it ran in: there it must not run.
        """
        boot, epoch = self._boot, run.lease.epoch
        if not await persist(lambda: self._state.under_way(run.call_id, boot, epoch), self._tenancy.patience):
            return False
        try:
            known = "unknown" if run.sandbox is None else await run.sandbox.query(run.call_id)
        except SandboxLost:
            known = "unknown"
        if known == "unknown":
            gone = "it started, and neither Redis nor its sandbox knows what became of it"
            raise Ended(run.end(Status.UNKNOWN, executed="unknown", error=gone))
        return True

    async def _furnish(self, run: Run) -> None:
        def tell(state: RetryCallState) -> None:
            run.attempts = state.attempt_number + 1
            error = state.outcome and state.outcome.exception()
            log.warning("call %s, try %d: %s", run.call_id, state.attempt_number, error)
            self._event("task-retried", run, None)

        try:
            run.attempts = await self._tenancy.furnish(run.lease, tell)
        except HeldElsewhere:
            raise Dropped("the lease is held elsewhere") from None
        except SnapshotLost as error:
            await self._forsake(run, str(error))
        except (BackendError, *OUTAGES) as error:
            raise Ended(run.end(Status.FAILED, executed="no", error=f"no sandbox: {error}")) from None

    async def _forsake(self, run: Run, cause: str) -> None:
        try:
            await self._tenancy.forsake(run.lease, cause)
        except HeldElsewhere:
            raise Dropped("the lease is held elsewhere") from None
        except OUTAGES as error:
            raise Ended(run.end(Status.FAILED, executed="no", error=f"Redis did not answer: {error}")) from None
        raise Ended(self._lost(run, cause, executed="no"))

    async def _forget_sandbox(self, run: Run, cause: str) -> None:
        lease = run.lease
        if run.sandbox is not None and lease.sandbox is run.sandbox:
            lease.sandbox, lease.lost, lease.used = None, cause, False
            await self._tenancy.part(lease, run.sandbox, cause)

    def _refused(self, run: Run, error: Exception) -> ToolResult:
        detail: dict[str, Any] = {"refusal": type(error).__name__}
        if isinstance(error, UnknownTool):
            allowed = run.lease.profile.tools
            names = [tool.name for tool in self._tools.catalogue]
            detail["available"] = [name for name in names if allowed is None or name in allowed]
        return run.end(Status.REJECTED, executed="no", error=str(error), output=str(error), detail=detail)

    def _lost(self, run: Run, cause: str, *, executed: Literal["no", "unknown"]) -> ToolResult:
        return run.end(Status.LOST, executed=executed, error=f"{cause}; the workspace is gone")
