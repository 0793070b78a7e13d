"""The stand-in's own door: one JSON object a line over a unix socket, with the name of a deed and its arguments."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from grpclib import GRPCError
from modal_proto import api_pb2
from standins.modal.cloud import Cloud
from standins.modal.faults import Fault, Faults
from standins.modal.rpc import Service


class Admin:
    """Does what tests ask for and the real cloud offers nobody."""

    def __init__(self, cloud: Cloud, faults: Faults, plane: Service, router: Service) -> None:
        self._cloud = cloud
        self._faults = faults
        self._plane = plane
        self._router = router
        self._deeds: dict[str, Callable[..., Awaitable[Any]]] = {
            "calls": self._calls,
            "clear": self._clear,
            "cut": self._cut,
            "end": self._end,
            "fault": self._fault,
            "idempotency": self._idempotency,
            "kill_exec": self._kill_exec,
            "lose": self._lose,
            "sandboxes": self._sandboxes,
            "secret": self._secret,
        }

    async def serve(self, path: Path) -> asyncio.Server:
        """Listen at ``path``."""
        return await asyncio.start_unix_server(self._talk, path)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                try:
                    order = json.loads(line)
                    answer = {"answer": await self._deeds[order.pop("deed")](**order)}
                except (GRPCError, KeyError, TypeError, ValueError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()

    async def _fault(self, **fields: Any) -> None:
        self._faults.add(Fault(**fields))

    async def _clear(self) -> None:
        self._faults.clear()

    async def _calls(self) -> dict[str, int]:
        return dict(self._faults.calls)

    async def _idempotency(self, on: bool) -> None:
        self._cloud.idempotent = on

    async def _secret(self, name: str, env: dict[str, str]) -> None:
        self._cloud.secrets[f"st-{name}"] = env
        self._cloud.secret_names[name] = f"st-{name}"

    async def _sandboxes(self) -> list[dict[str, Any]]:
        """Every sandbox that runs."""
        return [
            {
                "id": sandbox.id,
                "pid": sandbox.pid,
                "tags": sandbox.tags,
                "definition": MessageToDict(sandbox.order.definition, preserving_proto_field_name=True),
                "execs": {name: one.ended.done() for name, one in sandbox.execs.items()},
            }
            for sandbox in self._cloud.sandboxes.values()
            if not sandbox.over.is_set()
        ]

    async def _end(self, sandbox_id: str, status: str, why: str = "") -> None:
        """End a sandbox for a reason: ``KERNEL_OOM_KILL``, ``TERMINATED`` (as a preemption), ``IDLE_TIMEOUT`` ..."""
        sandbox = self._cloud.sandbox(sandbox_id)
        exitcode = 137 if status == "KERNEL_OOM_KILL" else 0
        sandbox.end(api_pb2.GenericResult.GenericStatus.Value(f"GENERIC_STATUS_{status}"), exitcode, why)
        await sandbox.ended()

    async def _lose(self, sandbox_id: str) -> None:
        """Lose the worker of a sandbox: its connections are cut, and nobody knows it any more."""
        await self._end(sandbox_id, "INTERNAL_FAILURE")
        del self._cloud.sandboxes[sandbox_id]
        self._router.cut()

    async def _cut(self) -> int:
        """Cut all connections to workers on which something is under way."""
        return self._router.cut()

    async def _kill_exec(self, sandbox_id: str) -> int:
        """Kill every command of a sandbox, but not its entrypoint."""
        running = [one for one in self._cloud.sandbox(sandbox_id).execs.values() if not one.ended.done()]
        for one in running:
            one.kill()
        return len(running)
