"""One call, as a sentence of named steps: decode, fence, admit, start, run, classify, record."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from toolfleet.backends.base import Outcome, Request, Sandbox
from toolfleet.config.connection import OUTAGES
from toolfleet.config.contract import Status, Timing, ToolCall, ToolResult, clamp_timeout, ended, new_id
from toolfleet.config.errors import BackendError, InvalidCall, SandboxLost, SandboxStartFailed
from toolfleet.config.settings import Retries
from toolfleet.config.state import FleetState
from toolfleet.workers.leases import Lease
from toolfleet.workers.pool import WarmPool
from toolfleet.workers.text import decode_streams, fit_output
from toolfleet.workers.tools import Tool, ToolRegistry
from toolfleet.workers.tools.base import parse

log = logging.getLogger(__name__)

#: Seconds that unpacking one set-up archive may take.
SETUP_TIMEOUT = 300.0


class Ended(Exception):
    """The call ends here, with this result."""

    def __init__(self, result: ToolResult) -> None:
        self.result = result


class Dropped(Exception):
    """The call is none of this worker's business: it ran already, or another worker holds its lease."""


@dataclass
class Run:
    """One call on its way through the steps."""

    lease: Lease
    call: ToolCall | None
    """None while its JSON still has to be read from the ledger."""
    call_id: str
    worker_id: str
    parallel: bool = False
    accepted: float = field(default_factory=time.monotonic)
    token: str = field(default_factory=lambda: new_id("a"))
    cancelled: bool = False
    begun: float = 0.0
    ready: float = 0.0
    submitted_ago: float = 0.0
    attempts: int = 1
    tool: Tool[Any] | None = None
    request: Request | None = None
    sandbox: Sandbox | None = None
    outcome: Outcome | None = None
    ran: float = 0.0

    def require(self) -> ToolCall:
        """The call, known after `Executor.decode`."""
        if self.call is None:
            raise AssertionError("decode comes first")
        return self.call

    def end(self, status: Status, *, executed: Any, error: str | None = None, **fields: Any) -> ToolResult:
        """A result of this call, with what is known of its way so far."""
        now = time.monotonic()
        began = self.begun or now
        ready = self.ready or now
        queued = max(0.0, self.submitted_ago - (ready - self.accepted)) if self.submitted_ago else 0.0
        timing = Timing(queued=queued, waited=began - self.accepted, started=max(0.0, ready - began), ran=self.ran)
        fields = {"attempts": self.attempts, **fields}
        return ended(
            self.require(),
            status,
            executed=executed,
            error=error,
            worker_id=self.worker_id,
            lease_epoch=self.lease.epoch,
            workspace_generation=self.lease.generation,
            timing=timing,
            **fields,
        )


class Ledger:
    """What the executor needs of the ledger; the core batches it."""

    def __init__(
        self,
        start: Callable[[Run], Awaitable[tuple[str, float]]],
        finish: Callable[[ToolResult, int], Awaitable[str]],
    ) -> None:
        self.start = start
        self.finish = finish


class Executor:
    """Takes a call through its steps. Every step is a method of one argument and may raise `Ended` or `Dropped`."""

    def __init__(
        self, boot: str, state: FleetState, ledger: Ledger, pool: WarmPool, tools: ToolRegistry,
        retries: Retries, on_event: Callable[[str, Run, ToolResult | None], None],
    ) -> None:  # fmt: skip
        self._boot = boot
        self._state = state
        self._ledger = ledger
        self._pool = pool
        self._tools = tools
        self._retries = retries
        self._event = on_event

    async def execute(self, run: Run) -> None:
        """All steps; never raises, whatever goes wrong in one of them."""
        run.begun = time.monotonic()
        try:
            try:
                await self.fetch(run)
                await self.fence(run)
                self.decode(run)
                await self.admit(run)
                await self.start(run)
                await self.run(run)
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

    async def fetch(self, run: Run) -> None:
        """Read the call from the ledger when it was too large to travel in its message."""
        if run.call is None:
            body = await self._state.body(run.call_id)
            if body is None:
                raise Dropped("it has ended")
            run.call = ToolCall.model_validate_json(body)
        self._event("task-received", run, None)

    async def fence(self, run: Run) -> None:
        """Only the holder of the lease goes on; the first reply after a loss tells the loss."""
        lease, call = run.lease, run.require()
        if not lease.claimed:
            async with lease.lock:
                if not lease.claimed:
                    await self._claim(lease, call)
        if run.cancelled:
            raise Ended(run.end(Status.CANCELLED, executed="no", error="cancelled before it started"))
        if lease.lost:
            raise Ended(run.end(Status.LOST, executed="no", error=f"{lease.lost}; the workspace is gone"))

    def decode(self, run: Run) -> None:
        """Find the tool and check the arguments; what does not fit is rejected."""
        call, profile = run.require(), run.lease.profile
        try:
            run.tool = self._tools.get(call.name)
            arguments = parse(run.tool, call.arguments)
            plan = run.tool.plan(arguments)
            asked = next((t for t in (call.timeout, arguments.timeout) if t is not None), profile.default_timeout)
            timeout = clamp_timeout(asked, profile.max_timeout)
        except (InvalidCall, ValueError) as error:
            raise Ended(run.end(Status.REJECTED, executed="no", error=str(error), output=str(error))) from None
        run.request = Request(call.call_id, plan.op, plan.args, timeout, plan.body)

    async def admit(self, run: Run) -> None:
        """Make sure that the trajectory has a sandbox; failures are retried, for nothing has started yet."""
        run.sandbox = run.lease.sandbox
        if run.sandbox is None:
            async with run.lease.lock:
                if run.lease.sandbox is None:
                    await self._furnish(run)
                run.sandbox = run.lease.sandbox

    async def start(self, run: Run) -> None:
        """Pass the gate of the ledger: at most once for each call, and only as holder of the lease."""
        run.ready = time.monotonic()
        try:
            verdict, run.submitted_ago = await self._ledger.start(run)
        except OUTAGES as error:
            raise Ended(run.end(Status.FAILED, executed="no", error=f"Redis did not answer: {error}")) from None
        if verdict != "go":
            raise Dropped(verdict)
        self._event("task-started", run, None)

    async def run(self, run: Run) -> None:
        """Run it. It has started now: whatever happens, it is not tried again."""
        if run.sandbox is None or run.request is None:
            raise AssertionError("decode and admit come first")
        began = time.monotonic()
        try:
            if run.cancelled:
                raise Ended(run.end(Status.CANCELLED, executed="no", error="cancelled before it started"))
            run.outcome = await run.sandbox.run(run.request)
            run.ran = run.outcome.ran
        except SandboxLost as error:
            run.ran = time.monotonic() - began
            self._forget_sandbox(run, str(error))
            executed = "unknown" if error.sent else "no"
            raise Ended(run.end(Status.LOST, executed=executed, error=f"{error}; the workspace is gone")) from None

    def classify(self, run: Run) -> ToolResult:
        """Turn the runner's outcome into a result. Nothing that a command printed takes part in the status."""
        outcome, tool, request = run.outcome, run.tool, run.request
        if outcome is None or tool is None or request is None:
            raise AssertionError("run comes first")
        stdout, stderr = decode_streams(outcome)
        shown = tool.show(outcome, stdout.text, stderr.text)
        output, cut = fit_output(shown.output)
        status, error = Status.OK, shown.error
        if outcome.timed_out:
            status, error = Status.TIMEOUT, f"timed out after {request.timeout:g} s"
        elif outcome.cancelled:
            status, error = Status.CANCELLED, "cancelled while it ran"
        return run.end(
            status,
            executed="yes",
            error=error,
            output=output,
            stdout=stdout.text,
            stderr=stderr.text,
            exit_code=shown.exit_code,
            truncated=bool(cut or shown.truncated or stdout.dropped or stderr.dropped),
            bytes_dropped=stdout.dropped + stderr.dropped,
        )

    def broken(self, run: Run, error: Exception) -> ToolResult:
        """An error of our own, told as what it is."""
        executed = "unknown" if run.submitted_ago or run.outcome else "no"
        status = Status.UNKNOWN if executed == "unknown" else Status.FAILED
        return run.end(status, executed=executed, error=f"internal error: {type(error).__name__}: {error}")

    async def record(self, run: Run, result: ToolResult) -> None:
        """Enter the result in the ledger, which hands it to the producer once."""
        verdict = await self._ledger.finish(result, run.lease.epoch)
        self._event("ended", run, result)
        if verdict == "done" and result.status is Status.LOST:
            run.lease.lost = ""  # told: the next call may go on in a new workspace
        if verdict != "done":
            raise Dropped(f"its result is {verdict}")

    # -- parts of steps

    async def _claim(self, lease: Lease, call: ToolCall) -> None:
        claim = await self._state.claim(lease.trajectory_id, self._boot, lease.epoch)
        if claim is None:
            await self._state.bounce(call)
            raise Dropped("the lease is held elsewhere")
        lease.setup, lease.generation = claim.setup, claim.generation
        lease.profile = self._pool.profiles.get(claim.profile, lease.profile)
        lease.lost, lease.claimed = claim.lost, True

    async def _furnish(self, run: Run) -> None:
        lease = run.lease
        if lease.had_sandbox:
            lease.generation = await self._state.renew_workspace(lease.trajectory_id, self._boot, lease.epoch)
        try:
            async for attempt in self._retrying(run):
                with attempt:
                    run.attempts = attempt.retry_state.attempt_number
                    lease.sandbox = await self._prepared(lease)
        except BackendError as error:
            raise Ended(run.end(Status.FAILED, executed="no", error=f"no sandbox: {error}")) from None
        lease.had_sandbox = True

    async def _prepared(self, lease: Lease) -> Sandbox:
        """A sandbox with the set-up of the trajectory unpacked in it."""
        sandbox = await self._pool.acquire(lease.profile)
        try:
            await sandbox.claim(lease.epoch)
            for step in lease.setup:
                content = await self._state.blob(step["archive"])
                if content is None:
                    raise BackendError(f"the set-up archive {step['archive'][:12]} is not in Redis any more")
                request = Request(new_id("setup"), "unpack", {"dest": step["dest"]}, SETUP_TIMEOUT, content)
                outcome = await sandbox.run(request)
                if outcome.error or outcome.exit_code:
                    raise BackendError(f"set-up failed: {outcome.error or outcome.stderr.decode(errors='replace')}")
        except SandboxLost as error:
            self._pool.discard(sandbox)
            raise SandboxStartFailed(f"the sandbox died during set-up: {error}") from None
        except BaseException:
            self._pool.discard(sandbox)
            raise
        return sandbox

    def _retrying(self, run: Run) -> AsyncRetrying:
        rules = self._retries

        def tell(state: RetryCallState) -> None:
            log.warning(
                "call %s, try %d: %s", run.call_id, state.attempt_number, state.outcome and state.outcome.exception()
            )
            self._event("task-retried", run, None)

        return AsyncRetrying(
            retry=retry_if_exception_type(SandboxStartFailed),
            stop=stop_after_attempt(rules.max + 1),
            wait=wait_exponential(multiplier=rules.base, max=rules.cap) + wait_random(0, rules.jitter),
            before_sleep=tell,
            reraise=True,
        )

    def _forget_sandbox(self, run: Run, cause: str) -> None:
        if run.sandbox is not None and run.lease.sandbox is run.sandbox:
            run.lease.sandbox, run.lease.lost = None, cause
            self._pool.discard(run.sandbox)
