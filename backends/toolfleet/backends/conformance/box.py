"""A sandbox with short verbs."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from toolfleet.backends.base import Operation, Outcome, Request, Sandbox

_call_ids = (f"call-{number}" for number in itertools.count())


class Box:
    """A sandbox, as checks and tests use it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    @staticmethod
    def request(
        op: Operation, timeout: float = 20.0, call_id: str | None = None, body: bytes = b"", **args: Any
    ) -> Request:
        """A request, with an id of its own unless one is given."""
        return Request(call_id or next(_call_ids), op, args, timeout, body)

    async def sh(self, command: str, timeout: float = 20.0, call_id: str | None = None, **args: Any) -> Outcome:
        """Run a shell command."""
        return await self.sandbox.run(self.request("exec", timeout, call_id, command=command, **args))

    async def text(self, command: str, **args: Any) -> str:
        """What a command prints; it must succeed."""
        outcome = await self.sh(command, **args)
        assert outcome.exit_code == 0, (command, outcome.stdout, outcome.stderr, outcome.error)
        return outcome.stdout.decode().strip()

    async def read(self, path: str, **args: Any) -> Outcome:
        """Read a file."""
        return await self.sandbox.run(self.request("read", path=path, **args))

    async def write(self, path: str, body: bytes, **args: Any) -> Outcome:
        """Write a file."""
        return await self.sandbox.run(self.request("write", body=body, path=path, **args))

    async def unpack(self, dest: str, body: bytes) -> Outcome:
        """Unpack an archive."""
        return await self.sandbox.run(self.request("unpack", body=body, dest=dest))

    async def do(self, op: Operation, body: bytes = b"", timeout: float = 20.0, **args: Any) -> Outcome:
        """Any operation; it must succeed."""
        outcome = await self.sandbox.run(self.request(op, timeout, body=body, **args))
        assert (outcome.error, outcome.exit_code) == (None, 0), (op, args, outcome)
        return outcome

    async def refusal(self, op: Operation, body: bytes = b"", timeout: float = 20.0, **args: Any) -> str:
        """The error of an operation that must fail."""
        outcome = await self.sandbox.run(self.request(op, timeout, body=body, **args))
        assert outcome.exit_code != 0, (op, args, outcome)
        assert outcome.error is not None
        return outcome.error

    async def alive(self, mark: str) -> list[str]:
        """Command lines of the processes in which ``mark`` occurs; the look itself does not count."""
        hidden = mark[:-1] + f"[{mark[-1]}]"  # the same as a pattern, but not as text
        return (await self.text(f"pgrep -fa -- '{hidden}' || true")).splitlines()

    async def runs(self, call_id: str) -> bool:
        """Whether a call runs now."""
        return await self.sandbox.query(call_id) == "running"

    @staticmethod
    async def eventually(fact: Callable[[], Awaitable[bool]], within: float = 20.0) -> None:
        """Wait until a fact holds."""
        until = time.monotonic() + within
        while not await fact():
            assert time.monotonic() < until, "it never came true"
            await asyncio.sleep(0.01)
