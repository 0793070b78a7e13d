"""``tool_handler``: how a HermesAgentLoop runs its calls in a fleet instead of its own process."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from toolfleet.config.contract import Fault
from toolfleet.config.errors import InvalidCall
from toolfleet.producer.adapters.rollouts import DEFAULT_TASK, CleanupReport, Rollout, RolloutConfig, Rollouts
from toolfleet.producer.adapters.shapes import Reply, as_json, reply, reply_of_error, unknown_tool
from toolfleet.producer.adapters.shared import SHARED
from toolfleet.producer.agent import CallMetrics, normalise
from toolfleet.producer.fleet import Fleet
from toolfleet.producer.sync import SyncFleet

log = logging.getLogger(__name__)

#: Seconds in the tool after which a call is logged.
SLOW = 30.0


def tool_handler(where: Fleet | SyncFleet | Rollouts | RolloutConfig | None = None) -> "ToolHandler":
    """An async function ``(tool_name, args, task_id) -> JSON text`` for a HermesAgentLoop.

    Args:
        where: a fleet, which its owner closes, or `Rollouts` over one. Without it the process has a fleet of its own,
            as the settings say; a `RolloutConfig` tells in which environment its tasks run.
    """
    if isinstance(where, RolloutConfig):
        SHARED.configure(where)
        where = None
    return ToolHandler(Rollouts(where) if isinstance(where, Fleet | SyncFleet) else where)


class ToolHandler:
    """Runs the calls of agent loops. Made by `tool_handler`; a task's sandbox is opened by its first call."""

    def __init__(self, rollouts: Rollouts | None) -> None:
        self._rollouts = rollouts

    async def __call__(self, tool_name: str, args: Mapping[str, Any] | str, task_id: str | None = None) -> str:
        """Run one call and give its reply as JSON text, whatever becomes of it."""
        try:
            rollouts = await self._ready()
        except Exception as error:
            log.exception("there is no fleet for %s", tool_name)
            return as_json(reply_of_error(tool_name, error))
        task = task_id or DEFAULT_TASK
        return as_json(await self._run(rollouts, rollouts.of(task), task, tool_name, args))

    async def release(self, task_id: str | None = None) -> CleanupReport:
        """End a task; its sandbox goes. Idempotent."""
        return await (await self._ready()).release(task_id or DEFAULT_TASK)

    async def metrics(self, task_id: str | None = None) -> CallMetrics:
        """How the calls of a task ended so far; mask its rollout when any is the infrastructure's fault."""
        return (await self._ready()).of(task_id or DEFAULT_TASK).metrics

    async def _ready(self) -> Rollouts:
        return self._rollouts or await SHARED.aget()

    async def _run(self, rollouts: Rollouts, rollout: Rollout, task_id: str, name: str, args: Any) -> Reply:
        arguments, valid = normalise(name, args)
        allowed = rollout.config.tools
        if allowed is not None and name not in allowed:
            rollout.metrics = rollout.metrics.plus("rejected", schema_valid=valid)
            return unknown_tool(name, allowed)
        try:
            result = await rollouts.call(task_id, name, arguments)
        except asyncio.CancelledError:
            raise
        except InvalidCall as error:
            rollout.metrics = rollout.metrics.plus("rejected", schema_valid=valid)
            return reply_of_error(name, error)
        except Exception as error:
            log.exception("task %s: the call of %s could not be made", task_id, name)
            rollout.metrics = rollout.metrics.plus("error", schema_valid=valid, fault=Fault.INFRASTRUCTURE)
            return reply_of_error(name, error)
        if result.timing.ran > SLOW:
            log.warning("task %s: %s ran %.1f s (%s)", task_id, name, result.timing.ran, result.call_id)
        rollout.metrics = rollout.metrics.plus_result(result, schema_valid=valid)
        return reply(result, arguments)
