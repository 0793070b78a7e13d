"""The way to a runner: one exec of a sandbox, whose standard streams carry one connection."""

import contextlib
from typing import TYPE_CHECKING

from toolfleet.backends.modal_cloud.sdk import CloudError, bounded

if TYPE_CHECKING:
    import modal
    from modal.container_process import ContainerProcess

#: Seconds that a write may wait for the runner to take it.
_WRITE = 60.0
#: Seconds for the last words of a relay, and for its end.
_LAST = 5.0
#: The most that one request carries, in bytes.
_CHUNK = 1024 * 1024


class Relay:
    """A running relay, see `toolfleet.backends.transports.ByteStream`. The SDK resumes its streams after a cut."""

    def __init__(self, process: "ContainerProcess[bytes]") -> None:
        self._process = process
        self._chunks = aiter(process.stdout)

    async def read(self) -> bytes:
        """See `ByteStream.read`. Waits as long as the runner has nothing to say."""
        async with bounded("carry on with a stream", None):
            if data := await anext(self._chunks, b""):
                return data
        async with bounded("say how a relay ended", _LAST):
            words = (await self._process.stderr.read.aio()).decode(errors="replace").strip()
        raise CloudError("failed", words or "the relay has ended")

    async def write(self, data: bytes) -> None:
        """See `ByteStream.write`."""
        # The SDK forgets what is written while it drains: the two take turns.
        for start in range(0, len(data), _CHUNK):
            async with bounded("take input for a stream", _WRITE):
                self._process.stdin.write(data[start : start + _CHUNK])
                await self._process.stdin.drain.aio()

    async def close(self) -> None:
        """See `ByteStream.close`. Without an end of its input a relay would stay for as long as its sandbox."""
        with contextlib.suppress(CloudError):
            async with bounded("end a relay", _LAST):
                self._process.stdin.write_eof()
                await self._process.stdin.drain.aio()
        await self._chunks.aclose()


async def start(sandbox: "modal.Sandbox", argv: list[str]) -> Relay:
    """Start a relay.

    Raises:
        CloudError: there is nothing to start it in.
    """
    async with bounded("start a relay"):
        return Relay(await sandbox.exec.aio(*argv, text=False))
