"""Every error of toolfleet, in one tree.

::

    ToolfleetError
    ├── SettingsError             the configuration is wrong            (yours to fix)
    ├── InvalidCall               a call that can never run             (the policy's or the caller's)
    │   ├── UnknownTool
    │   ├── ToolDenied
    │   ├── NoToolServer
    │   ├── InvalidArguments
    │   └── PayloadTooLarge
    ├── FleetError                the fleet could not serve you         (infrastructure)
    │   ├── RedisUnavailable
    │   ├── RedisUnsupported
    │   ├── FleetSaturated
    │   ├── NoWorkerForProfile
    │   ├── TrajectoryClosed
    │   ├── ForkFailed
    │   └── FleetClosed
    ├── TransferError             a file could not be brought in or out
    │   ├── LocalFileError        because of this machine             (yours to fix)
    │   ├── RemoteFileError       because of what is in the sandbox   (the policy's or the caller's)
    │   └── TransferInterrupted   because of the fleet                (infrastructure)
    └── BackendError              a sandbox could not be made or kept   (infrastructure)
        ├── BackendUnavailable    this machine cannot run the backend at all
        ├── SpecRefused           the profile asks for what the backend cannot enforce
        ├── SandboxStartFailed    creation failed; another try may work
        ├── SandboxLost           the sandbox is gone, with everything in it
        ├── SnapshotLost          what a sandbox was to start from is gone
        └── NotPristine           a sandbox is not proven to be what it was at its start

A message says what happened and what to do about it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolfleet.config.contract import ToolResult


class ToolfleetError(Exception):
    """Root of every error that toolfleet raises on purpose."""


class SettingsError(ToolfleetError):
    """The configuration is wrong; the message names the key, where it came from and the nearest valid one."""


class InvalidCall(ToolfleetError):
    """A call that can never run as it is; it becomes a result with status ``rejected``."""


class UnknownTool(InvalidCall):
    """The call names a tool that the fleet does not have."""


class NoToolServer(InvalidCall):
    """The call names an external tool, and the fleet has no ToolServer to run it."""


class ToolDenied(InvalidCall):
    """The profile does not allow the tool."""


class InvalidArguments(InvalidCall):
    """The arguments do not fit the tool's schema."""


class PayloadTooLarge(InvalidCall):
    """The call carries more bytes than the fleet accepts."""


class FleetError(ToolfleetError):
    """The fleet could not serve the request; nothing was run on its behalf."""


class RedisUnavailable(FleetError):
    """Redis does not answer."""


class RedisUnsupported(FleetError):
    """Redis answers, but it is too old or not Redis."""


class FleetSaturated(FleetError):
    """No slot became free within the time a trajectory may wait for one."""


class NoWorkerForProfile(FleetError):
    """No live worker serves the profile."""


class TrajectoryClosed(FleetError):
    """The trajectory was closed; it takes no more calls."""


class ForkFailed(FleetError):
    """A workspace was not copied, and no trajectory was made; ``result`` says what became of the attempt.

    Where its status is ``lost`` it has told the loss of the workspace, as any call would.
    """

    def __init__(self, message: str, result: "ToolResult") -> None:
        super().__init__(message)
        self.result = result


class FleetClosed(FleetError):
    """The fleet's client was closed; it takes no more calls."""


class TransferError(ToolfleetError):
    """A file or tree could not be brought into a sandbox or out of it; nothing of it is at its destination."""


class LocalFileError(TransferError):
    """This machine has no such file, or cannot take it."""


class RemoteFileError(TransferError):
    """The sandbox has no such file, cannot take it, or has sent what would be written elsewhere."""


class TransferInterrupted(TransferError):
    """The fleet failed on the way, or the workspace is gone; a policy cannot bring this about."""


class BackendError(ToolfleetError):
    """A sandbox could not be made, reached or kept."""


class BackendUnavailable(BackendError):
    """This machine cannot run the backend; retrying will not help."""


class SpecRefused(BackendError):
    """The profile asks for something that the backend cannot enforce, so it does not pretend to."""


class SandboxStartFailed(BackendError):
    """A sandbox failed to start; trying again may work."""


class SandboxLost(BackendError):
    """The sandbox is gone, and its workspace with it.

    ``sent`` tells whether the request had reached the sandbox: False means that the command provably never started.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class SnapshotLost(BackendError):
    """There is no such snapshot (any more), so that no sandbox can start from it."""


class NotPristine(BackendError):
    """A used sandbox is not proven to be what it was at its start, so that nobody may get it any more."""
