"""The SDK of Modal as one process uses it: connected on first use, bounded in time, its errors told apart.

A client must not cross a fork, and handles of sandboxes must not cross processes: what leaves this process are ids.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from toolfleet.config.errors import BackendError, BackendUnavailable, SandboxStartFailed, SnapshotLost, SpecRefused

if TYPE_CHECKING:
    import modal

#: The Modal app that all sandboxes belong to; fleets are told apart by tags, accounts by Modal's own environments.
APP = "toolfleet"
#: Seconds for one request to Modal that starts nothing.
ANSWER = 30.0

Kind = Literal["missing", "refused", "denied", "throttled", "failed"]


class CloudError(OSError):
    """Modal has not done what it was asked for.

    An OSError, because to whoever reads and writes a stream that is what it is.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def load() -> ModuleType:
    """Import the SDK.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        import modal
    except ImportError as error:
        raise BackendUnavailable(
            f"the backend modal needs Modal's SDK ({error}). Install it: pip install 'toolfleet[modal]'"
        ) from error
    return modal


@contextlib.asynccontextmanager
async def bounded(what: str, seconds: float | None = ANSWER) -> AsyncIterator[None]:
    """Give what the SDK does here ``seconds``; by itself it may repeat a request for ever.

    Raises:
        CloudError: it has failed; ``what`` completes "Modal did not ...".
    """
    from grpclib.exceptions import GRPCError, StreamTerminatedError
    from modal import exception

    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except exception.NotFoundError as error:
        raise CloudError("missing", f"Modal did not {what}: {error}") from error
    except (exception.AuthError, exception.PermissionDeniedError) as error:
        raise CloudError("denied", f"Modal did not {what}: {error}") from error
    except exception.InvalidError as error:
        kind: Kind = "failed" if isinstance(error, exception.ConflictError) else "refused"
        raise CloudError(kind, f"Modal did not {what}: {error}") from error
    except exception.ResourceExhaustedError as error:
        raise CloudError("throttled", f"Modal did not {what}: too many requests, or no capacity ({error})") from error
    except TimeoutError as error:
        reason = f"no answer within {seconds:.0f} s" if scope.expired() else str(error) or "it took too long"
        raise CloudError("failed", f"Modal did not {what}: {reason}") from error
    except CloudError:
        raise
    # The SDK lets through what grpclib raises, and a ValueError where a stream is closed on the other side.
    except (exception.Error, GRPCError, StreamTerminatedError, OSError, ValueError) as error:
        raise CloudError("failed", f"Modal did not {what}: {str(error) or type(error).__name__}") from error


def start_error(error: CloudError, origin: str | None) -> BackendError:
    """What a failure means for a sandbox that was about to start, from the snapshot ``origin`` if there is one."""
    if error.kind == "denied":
        return BackendUnavailable(f"{error}. Check the token: modal token info")
    if error.kind == "refused":
        return SpecRefused(str(error))
    if error.kind == "missing" and origin is not None:
        return SnapshotLost(f"there is no snapshot {origin} (any more), or something that the profile names: {error}")
    if error.kind == "missing":
        return SpecRefused(f"{error}. Create it in Modal, or correct the profile")
    return SandboxStartFailed(str(error))


class Sdk:
    """A client and the app, made when they are first asked for."""

    def __init__(self) -> None:
        self._connecting = asyncio.Lock()
        self._connection: tuple[modal.Client, modal.App] | None = None

    async def connect(self) -> "tuple[modal.Client, modal.App]":
        """The client and the app.

        Raises:
            BackendUnavailable: there is no SDK or no token.
            CloudError: Modal does not answer, or does not accept the token.
        """
        modal = load()
        async with self._connecting:
            if self._connection is None:
                config = modal.config.config
                token, secret = config.get("token_id"), config.get("token_secret")
                if not (token and secret):
                    raise BackendUnavailable(
                        "there is no token for Modal: run 'modal token new', or set MODAL_TOKEN_ID and "
                        "MODAL_TOKEN_SECRET"
                    )
                async with bounded("accept a connection"):
                    client = await modal.Client.from_credentials.aio(token, secret)
                try:
                    async with bounded(f"look up the app {APP}"):
                        app = await modal.App.lookup.aio(APP, client=client, create_if_missing=True)
                except BaseException:
                    await client.close.aio()
                    raise
                self._connection = client, app
        return self._connection

    async def close(self) -> None:
        """Close the client."""
        connection, self._connection = self._connection, None
        if connection is not None:
            async with bounded("close the connection"):
                await connection[0].close.aio()
