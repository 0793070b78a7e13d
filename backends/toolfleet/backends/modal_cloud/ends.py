"""Why a sandbox of Modal is no more, in words."""

from typing import TYPE_CHECKING

from toolfleet.backends.modal_cloud.sdk import CloudError, bounded

if TYPE_CHECKING:
    import modal

#: Seconds that asking for the reason may take: somebody waits for the bad news.
_ANSWER = 5.0

#: By the name of the status that Modal gives the end of a sandbox.
_CAUSES = {
    "SUCCESS": "its runner has ended",
    "FAILURE": "its runner has ended",
    "TERMINATED": "it was terminated: by Modal (a preemption), or by somebody with access to the account",
    "TIMEOUT": "its lifetime is over, which Modal cannot prolong (modal.max_lifetime)",
    "IDLE_TIMEOUT": "Modal found it idle (modal.idle_timeout)",
    "INIT_FAILURE": "Modal could not start its container",
    "INTERNAL_FAILURE": "Modal has failed internally",
    "KERNEL_OOM_KILL": "it was out of memory (memory_mib)",
    "MEMORY_MANAGER_EVICTION": "Modal evicted it for memory (memory_mib)",
    "MEMORY_THRASHING_EVICTION": "Modal evicted it for memory (memory_mib)",
}
#: What is left of the above where only the SDK's exit code can be had.
_BY_CODE = {124: _CAUSES["TIMEOUT"], 137: "it was killed: terminated, preempted or out of memory"}


async def cause(sandbox: "modal.Sandbox") -> str | None:
    """The reason why it ended; None when it runs, or when that cannot be learnt."""
    try:
        async with bounded("say how the sandbox ended", _ANSWER):
            code = await sandbox.poll.aio()
    except CloudError as error:
        return "Modal does not know it any more: its machine is lost" if error.kind == "missing" else None
    return None if code is None else (_status(sandbox) or _BY_CODE.get(code, _CAUSES["FAILURE"]))


def _status(sandbox: "modal.Sandbox") -> str | None:
    """The cause by the status, which the SDK keeps to itself: idle time-outs and lack of memory raise nothing."""
    try:
        from modal._utils.async_utils import synchronizer
        from modal_proto import api_pb2

        result = synchronizer._translate_in(sandbox)._impl.result  # type: ignore[no-untyped-call]
        status = api_pb2.GenericResult.GenericStatus.Name(result.status)
    except (ImportError, AttributeError, ValueError):
        return None
    return _CAUSES.get(status.removeprefix("GENERIC_STATUS_"))
