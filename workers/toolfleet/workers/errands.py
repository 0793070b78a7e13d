"""Errands: calls that run outside the sandbox, in this process or at the ToolServer.

They keep the order of their trajectory, the gate of the ledger, the deadline and cancellation; they have no runner that
could be asked by another worker, so one that its worker leaves behind is `unknown`.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from toolfleet.config.contract import Status, ToolResult
from toolfleet.config.settings import Retries
from toolfleet.config.tools import Arguments, Context
from toolfleet.workers.text import fit_output
from toolfleet.workers.tools.base import NotRun, OutsideTool, Shown, Stopped, Unanswered

if TYPE_CHECKING:
    from toolfleet.workers.run import Run

log = logging.getLogger(__name__)

#: Exit code of what was stopped at its deadline, as of a command in the sandbox.
TIMED_OUT = 124


@dataclass
class Errand:
    """One call's work outside the sandbox."""

    tool: OutsideTool[Any]
    arguments: Arguments
    work: asyncio.Task[Shown] | None = None

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self.work is not None:
            self.work.cancel()


class Errands:
    """Runs errands, and tells how they ended."""

    def __init__(self, retries: Retries, on_retry: Callable[["Run"], None]) -> None:
        self._retries = retries
        self._on_retry = on_retry

    async def run(self, run: "Run") -> ToolResult:
        """Do the work of a call that has passed the gate. What was provably not done is tried again in time."""
        errand = run.errand
        if errand is None:
            raise AssertionError("decode comes first")
        if run.cancelled:
            return run.end(Status.CANCELLED, executed="no", error="cancelled before it started")
        began = time.monotonic()
        errand.work = asyncio.create_task(self._attempts(run, errand, began + run.timeout))
        await asyncio.wait({errand.work})
        run.ran = time.monotonic() - began
        try:
            shown = errand.work.result()
        except asyncio.CancelledError:
            if not run.cancelled:
                return self.abandoned(run)
            return run.end(Status.CANCELLED, executed="yes", error="cancelled while it ran")
        except NotRun as error:
            return run.end(Status.FAILED, executed="no", error=str(error))
        except Unanswered as error:
            return run.end(Status.UNKNOWN, executed="unknown", error=str(error))
        except Stopped as error:
            why = str(error)
            return run.end(Status.TIMEOUT, executed="yes", error=why, output=why, exit_code=TIMED_OUT)
        output, cut = fit_output(shown.output)
        return run.end(
            Status.OK,
            executed="yes",
            error=shown.error,
            output=output,
            exit_code=shown.exit_code,
            truncated=cut or shown.truncated,
            detail=shown.detail,
        )

    def abandoned(self, run: "Run") -> ToolResult:
        """The end of a call whose worker left it behind."""
        gone = "its worker is gone, and what ran outside the sandbox can be asked of nobody"
        return run.end(Status.UNKNOWN, executed="unknown", error=gone)

    async def _attempts(self, run: "Run", errand: Errand, deadline: float) -> Shown:
        def tell(state: RetryCallState) -> None:
            run.attempts = state.attempt_number + 1
            log.warning(
                "call %s, try %d: %s", run.call_id, state.attempt_number, state.outcome and state.outcome.exception()
            )
            self._on_retry(run)

        rules = self._retries
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, NotRun) and error.again),
            stop=stop_after_attempt(rules.max + 1) | stop_before_delay(run.timeout),
            wait=wait_exponential(multiplier=rules.base, max=rules.cap) + wait_random(0, rules.jitter),
            before_sleep=tell,
            reraise=True,
        ):
            with attempt:
                left = max(0.0, deadline - time.monotonic())
                context = Context(run.lease.trajectory_id, run.call_id, left)
                return await errand.tool.perform(errand.arguments, context)
        raise AssertionError("the last attempt returns or raises")
