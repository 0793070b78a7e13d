"""Content that travels beside the ledger: too large for it, and no text."""

from toolfleet.backends.base import Sandbox
from toolfleet.config.connection import OUTAGES
from toolfleet.config.patience import persist
from toolfleet.config.state import FleetState


class Missing(Exception):
    """The content of a call is not to be had, and the call has not run; the message says why."""


async def fetch(state: FleetState, sandbox: Sandbox, call_id: str, patience: float) -> bytes:
    """What the producer has laid there; nothing is needed for a call that the runner knows already.

    Raises:
        Missing: Redis does not answer, or has it no more.
        SandboxLost: the runner does not answer.
    """
    try:
        content = await persist(lambda: state.part(call_id), patience)
    except OUTAGES as error:
        raise Missing(f"Redis did not answer: {error}") from None
    if content is None and await sandbox.query(call_id) == "unknown":
        raise Missing("the content of this call is not in Redis any more")
    return content or b""


async def leave(state: FleetState, call_id: str, content: bytes | None, patience: float) -> None:
    """Lay there what the producer is to find, if there is anything."""
    if content is not None:
        await persist(lambda: state.put_part(call_id, content), patience)
