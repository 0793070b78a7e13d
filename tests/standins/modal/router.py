"""A worker's end of the connection: service ``TaskCommandRouter``, which runs commands and moves their streams."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from grpclib import GRPCError, Status
from modal_proto import task_command_router_pb2 as sr_pb2
from standins.modal.cloud import Cloud
from standins.modal.faults import Faults, invalid
from standins.modal.process import Process
from standins.modal.rpc import Call, Service, Streaming, Unary
from standins.modal.sandbox import Sandbox


class Router:
    """Answers by the name of an RPC, for all sandboxes of a cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def service(self, faults: Faults) -> Service:
        """The service to serve."""
        unary: dict[str, Unary] = {
            "SandboxStdinWriteV2": self._write_entrypoint,
            "TaskExecPoll": self._poll,
            "TaskExecStart": self._start,
            "TaskExecStdinStatus": self._stdin_status,
            "TaskExecStdinWrite": self._write,
            "TaskExecWait": self._wait,
            "TaskSnapshotFilesystem": self._snapshot,
        }
        streaming: dict[str, Streaming] = {"SandboxStdioReadV2": self._read_entrypoint, "TaskExecStdioRead": self._read}
        descriptor = sr_pb2.DESCRIPTOR.services_by_name["TaskCommandRouter"]
        return Service(descriptor, faults, unary, streaming, self._check)

    def _check(self, call: Call) -> None:
        bearer = call.metadata.get("authorization", "").removeprefix("Bearer ")
        if bearer not in self._cloud.tokens:
            raise GRPCError(Status.UNAUTHENTICATED, "this token is of no sandbox")

    def _sandbox(self, task_id: str) -> Sandbox:
        for sandbox in self._cloud.sandboxes.values():
            if sandbox.task_id == task_id and not sandbox.over.is_set():
                return sandbox
        raise GRPCError(Status.NOT_FOUND, f"there is no task {task_id}")

    def _process(self, task_id: str, exec_id: str) -> Process:
        with invalid("exec"):
            return self._sandbox(task_id).execs[exec_id]

    # -- commands

    async def _start(self, request: sr_pb2.TaskExecStartRequest, _: Call) -> sr_pb2.TaskExecStartResponse:
        sandbox = self._sandbox(request.task_id)
        env = self._cloud.env(request.secret_sources) | dict(request.env)
        process = await sandbox.exec(request.exec_id, request.command_args, env, request.workdir)
        if request.HasField("timeout_secs"):
            asyncio.get_running_loop().call_later(request.timeout_secs, process.kill)
        return sr_pb2.TaskExecStartResponse()

    async def _poll(self, request: sr_pb2.TaskExecPollRequest, _: Call) -> sr_pb2.TaskExecPollResponse:
        ended = self._process(request.task_id, request.exec_id).ended
        if not ended.done():
            return sr_pb2.TaskExecPollResponse()
        code = ended.result()
        return sr_pb2.TaskExecPollResponse(code=code) if code >= 0 else sr_pb2.TaskExecPollResponse(signal=-code)

    async def _wait(self, request: sr_pb2.TaskExecWaitRequest, _: Call) -> sr_pb2.TaskExecWaitResponse:
        code = await asyncio.shield(self._process(request.task_id, request.exec_id).ended)
        self._sandbox(request.task_id)  # the end of the whole sandbox is no end of a command
        return sr_pb2.TaskExecWaitResponse(code=code) if code >= 0 else sr_pb2.TaskExecWaitResponse(signal=-code)

    # -- streams

    async def _write(self, request: sr_pb2.TaskExecStdinWriteRequest, _: Call) -> sr_pb2.TaskExecStdinWriteResponse:
        process = self._process(request.task_id, request.exec_id)
        await process.write(request.offset, request.data, eof=request.eof)
        return sr_pb2.TaskExecStdinWriteResponse()

    async def _stdin_status(
        self, request: sr_pb2.TaskExecStdinStatusRequest, _: Call
    ) -> sr_pb2.TaskExecStdinStatusResponse:
        process = self._process(request.task_id, request.exec_id)
        return sr_pb2.TaskExecStdinStatusResponse(num_bytes_written=process.written, closed=process.closed)

    async def _read(
        self, request: sr_pb2.TaskExecStdioReadRequest, _: Call
    ) -> AsyncIterator[sr_pb2.TaskExecStdioReadResponse]:
        process = self._process(request.task_id, request.exec_id)
        errors = request.file_descriptor == sr_pb2.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDERR
        async with contextlib.aclosing((process.stderr if errors else process.stdout).read(request.offset)) as stream:
            async for data in stream:
                yield sr_pb2.TaskExecStdioReadResponse(data=data)

    async def _write_entrypoint(
        self, request: sr_pb2.SandboxStdinWriteV2Request, _: Call
    ) -> sr_pb2.SandboxStdinWriteV2Response:
        sandbox = self._sandbox(request.task_id)
        sandbox.touch()
        await sandbox.entrypoint.write(request.offset, request.data, eof=request.eof)
        return sr_pb2.SandboxStdinWriteV2Response()

    async def _read_entrypoint(
        self, request: sr_pb2.SandboxStdioReadV2Request, _: Call
    ) -> AsyncIterator[sr_pb2.SandboxStdioReadV2Response]:
        entrypoint = self._any(request.task_id).entrypoint
        errors = request.file_descriptor == sr_pb2.SANDBOX_STDIO_FILE_DESCRIPTOR_STDERR
        offset = request.offset
        async with contextlib.aclosing((entrypoint.stderr if errors else entrypoint.stdout).read(offset)) as stream:
            async for data in stream:
                yield sr_pb2.SandboxStdioReadV2Response(data=data, starting_offset=offset)
                offset += len(data)

    def _any(self, task_id: str) -> Sandbox:
        """Output of an entrypoint can be read after its end too."""
        for sandbox in self._cloud.sandboxes.values():
            if sandbox.task_id == task_id:
                return sandbox
        raise GRPCError(Status.NOT_FOUND, f"there is no task {task_id}")

    # -- files

    async def _snapshot(
        self, request: sr_pb2.TaskSnapshotFilesystemRequest, _: Call
    ) -> sr_pb2.TaskSnapshotFilesystemResponse:
        sandbox = self._sandbox(request.task_id)
        image_id = await self._cloud.snapshot(sandbox, request.snapshot_id)
        return sr_pb2.TaskSnapshotFilesystemResponse(image_id=image_id)
