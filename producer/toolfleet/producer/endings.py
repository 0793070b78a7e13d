"""How a call ends from its producer's side: when it has taken too long, or is not wanted any more."""

import asyncio
from collections.abc import Awaitable, Callable

from toolfleet.config import contract
from toolfleet.config.connection import OUTAGES
from toolfleet.config.contract import Status, ToolCall, ToolResult, ended
from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState

#: Tells a worker, by its name, that a call is to be stopped.
TellCancel = Callable[[ToolCall, str], Awaitable[None]]


class Endings:
    """Deadlines and cancellations of one producer."""

    def __init__(self, settings: Settings, state: FleetState, tell: TellCancel) -> None:
        self._settings = settings
        self._state = state
        self._tell = tell

    def patience(self, call: ToolCall) -> float:
        """Seconds that the tool may run at most, as far as a producer can tell."""
        if call.children:
            return contract.FORK_TIMEOUT
        asked = call.timeout
        if asked is None and isinstance(call.arguments, dict):
            asked = call.arguments.get("timeout")
        profile = self._settings.profiles.get(call.profile)
        longest = profile.max_timeout if profile else 600.0
        usual = profile.default_timeout if profile else longest
        try:
            return contract.clamp_timeout(asked if asked is not None else usual, longest)
        except ValueError:
            return longest

    async def expire(self, call: ToolCall) -> tuple[ToolResult, Awaitable[None] | None]:
        """The deadline passed: end the call in the ledger, or say honestly that its end is not known.

        The second part of the answer, if any, tells the worker; nobody has to wait for it.
        """
        never = ended(call, Status.FAILED, executed="no", error="its deadline passed before a worker could start it")
        lost = ended(call, Status.UNKNOWN, executed="unknown", error="it started, and no result came by its deadline")
        try:
            async with asyncio.timeout(self._settings.lease_ttl):
                verdict, worker, standing = await self._state.give_up(call, never, lost)
        except (TimeoutError, *OUTAGES) as error:
            return lost.model_copy(update={"error": f"its deadline passed while Redis did not answer: {error}"}), None
        if verdict == "started":
            return lost, self._tell(call, worker)
        if verdict == "missing":
            lost = lost.model_copy(update={"error": "Redis lost the call, and no result came by its deadline"})
            return lost, None
        return standing or never, None

    async def cancel(self, call: ToolCall) -> None:
        """Nobody awaits the call any more: it never starts, or is stopped."""
        gone = ended(call, Status.CANCELLED, executed="no", error="cancelled by the producer before it started")
        verdict, worker, _ = await self._state.give_up(call, gone, None)
        if verdict == "started":
            await self._tell(call, worker)
