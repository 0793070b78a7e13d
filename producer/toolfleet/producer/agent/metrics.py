"""How the calls of a rollout ended, counted."""

import json
from dataclasses import dataclass, replace
from typing import Literal, Self

from toolfleet.config.contract import Fault, Status, ToolResult

Verdict = Literal["ok", "error", "rejected"]

#: Characters of a call's arguments and of its reply that a `ToolError` keeps.
ARGUMENTS_KEPT = 200
REPLY_KEPT = 500


def verdict_of_result(result: ToolResult) -> Verdict:
    """``ok``: the tool did its work, however the command in it ended. ``rejected``: the call was none, and never ran.

    The rest is ``error``: a tool that says so, a deadline, a cancellation, an outage.
    """
    if result.status is Status.REJECTED:
        return "rejected"
    return "ok" if result.status is Status.OK and not result.error else "error"


def verdict_of_reply(reply: str) -> Verdict:
    """The same from the JSON text of a reply: an ``error`` that says something, or a negative ``exit_code``, is one.

    A reply that is no JSON object is the tool's plain output.
    """
    try:
        said = json.loads(reply)
    except (ValueError, RecursionError):
        return "ok"
    if not isinstance(said, dict):
        return "ok"
    code = said.get("exit_code")
    return "error" if said.get("error") or (isinstance(code, int) and code < 0) else "ok"


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """Calls of one rollout by their endings; every call is in exactly one of ``ok``, ``error`` and ``rejected``."""

    ok: int = 0
    error: int = 0
    rejected: int = 0
    schema_valid: int = 0
    """Calls whose arguments were written as an object."""
    infrastructure: int = 0
    """Errors that are not the policy's: with any of them, mask the rollout."""

    @property
    def attempted(self) -> int:
        """All calls."""
        return self.ok + self.error + self.rejected

    def plus(self, verdict: Verdict, *, schema_valid: bool = True, fault: Fault = Fault.NONE) -> Self:
        """These, and one call more."""
        return replace(
            self,
            **{verdict: getattr(self, verdict) + 1},
            schema_valid=self.schema_valid + schema_valid,
            infrastructure=self.infrastructure + (fault is Fault.INFRASTRUCTURE),
        )

    def plus_result(self, result: ToolResult, *, schema_valid: bool = True) -> Self:
        """These, and the call that ended with ``result``."""
        return self.plus(verdict_of_result(result), schema_valid=schema_valid, fault=result.fault)

    def counters(self) -> dict[str, int]:
        """The four counters that a HermesAgentLoop's ``AgentResult`` has."""
        return {
            "tool_calls_attempted": self.attempted,
            "tool_calls_schema_valid": self.schema_valid,
            "tool_calls_executed_ok": self.ok,
            "tool_calls_exec_error": self.error + self.rejected,
        }


@dataclass(frozen=True, slots=True)
class ToolError:
    """One call that did not do its work, as a log keeps it: with its arguments and its reply cut short."""

    turn: int
    tool_name: str
    arguments: str
    error: str
    tool_result: str

    @classmethod
    def of(cls, turn: int, tool_name: str, arguments: str, error: str, reply: str) -> Self:
        """A record of ``turn``, counted from 1."""
        return cls(turn, tool_name, arguments[:ARGUMENTS_KEPT], error, reply[:REPLY_KEPT])
