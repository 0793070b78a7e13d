"""Whether a used sandbox is what it was at its start: looked at from a process of Modal's making, compared here."""

import asyncio
import zlib
from typing import TYPE_CHECKING, Self

from toolfleet.backends.modal_cloud import relay, spec
from toolfleet.backends.modal_cloud.sdk import CloudError, bounded
from toolfleet.backends.runner import pristine
from toolfleet.backends.runtime import Bundle
from toolfleet.config.errors import NotPristine, SpecRefused

if TYPE_CHECKING:
    import modal

#: Seconds that one look may take: every file is read.
_WITHIN = 120.0
#: Differences that an error names.
_NAMED = 3


class Proof:
    """What one sandbox was at its start, before any command, and how many trajectories it may still serve.

    Nothing in the sandbox is believed but the kernel, the interpreter in its read-only mount, and what Modal starts
    when it is asked for an exec. The runner is not: its limits and powers are looked at as well.
    """

    def __init__(self, handle: "modal.Sandbox", bundle: Bundle, before: bytes, uses: int) -> None:
        self._handle = handle
        self._bundle = bundle
        self._before = before
        self._uses = uses

    @classmethod
    async def take(cls, handle: "modal.Sandbox", bundle: Bundle, uses: int) -> Self:
        """Look at a sandbox that has just started.

        Raises:
            CloudError: Modal does not let us.
        """
        return cls(handle, bundle, await _look(handle, bundle, b""), uses)

    def count(self) -> None:
        """One more trajectory wants it.

        Raises:
            SpecRefused: it has served as many as it may.
        """
        self._uses -= 1
        if self._uses < 1:
            raise SpecRefused("the sandbox has served as many trajectories as it may (modal.max_uses)")

    async def restore(self) -> None:
        """Undo what was done to the sandbox, in which no command runs any more, and compare.

        Raises:
            NotPristine: something differs, or could not be looked at.
        """
        try:
            after = await _look(self._handle, self._bundle, self._before)
            found = await asyncio.to_thread(_differences, self._before, after)
        except (CloudError, ValueError, zlib.error) as error:
            raise NotPristine(f"the sandbox cannot be looked at: {error}") from error
        if found:
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise NotPristine(f"the sandbox is not what it was: {', '.join(found[:_NAMED])}{more}")


async def _look(handle: "modal.Sandbox", bundle: Bundle, before: bytes) -> bytes:
    """What is there now, after an undo where there is a ``before``; compressed, as it comes."""
    stream = await relay.start(handle, bundle.argv(spec.MOUNTED, program="pristine"))
    try:
        async with bounded("let us look at a sandbox", _WITHIN):
            await stream.write(pristine.pack(before))
            data = b""
            while len(data) < (need := _size(data)):
                data += await stream.read()
            return data[pristine.HEAD.size : need]
    finally:
        await stream.close()


def _size(data: bytes) -> int:
    if len(data) < pristine.HEAD.size:
        return pristine.HEAD.size
    return pristine.HEAD.size + int(pristine.HEAD.unpack_from(data)[0])


def _differences(before: bytes, after: bytes) -> list[str]:
    return pristine.differences(pristine.unpack(before), pristine.unpack(after))
