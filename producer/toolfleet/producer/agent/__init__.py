"""What an agent loop needs around its calls, as small pure functions: none of them talks to a fleet."""

from toolfleet.producer.agent.arguments import Normalised, normalise
from toolfleet.producer.agent.context import ContextView, estimate, view
from toolfleet.producer.agent.hermes import ModelCall, ModelTurn, parse_hermes
from toolfleet.producer.agent.metrics import CallMetrics, ToolError, Verdict, verdict_of_reply, verdict_of_result

__all__ = [
    "CallMetrics",
    "ContextView",
    "ModelCall",
    "ModelTurn",
    "Normalised",
    "ToolError",
    "Verdict",
    "estimate",
    "normalise",
    "parse_hermes",
    "verdict_of_reply",
    "verdict_of_result",
    "view",
]
