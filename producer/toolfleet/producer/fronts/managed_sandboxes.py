"""Sandboxes that clients make, run commands in, and end; each is a trajectory of the fleet."""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from toolfleet.config.contract import Status
from toolfleet.producer.adapters.atropos import ToolCall, ToolResult
from toolfleet.producer.adapters.tool_executor import ToolExecutor
from toolfleet.producer.fronts.managed_models import CreateRequest, Exec, ExecRequest, ExecStatus
from toolfleet.producer.fronts.once import call_id

#: Seconds that a request waits for the end of its command before it says that the command runs.
HOLD = 1.0
#: Ended executions that a sandbox remembers; asked for again by their request, the ledger knows more.
REMEMBERED = 64
#: Least time without a command that ends a sandbox, in milliseconds.
LEAST_IDLE = 300_000
#: Exit codes of executions that were ended.
TIMED_OUT, INTERRUPTED = 124, 130


class Refused(ValueError):
    """The profile does not give what a sandbox was asked to have."""


class Unknown(KeyError):
    """There is no such sandbox or execution."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class Sandbox:
    """One sandbox."""

    id: str
    cwd: str | None
    ends: float
    """When its time is over, by the monotonic clock."""
    idle: float
    """Seconds without a command that end it."""
    used: float
    """When a command began or ended last."""
    execs: OrderedDict[str, asyncio.Task[Exec]] = field(default_factory=OrderedDict)
    timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """A command runs."""
        return any(not task.done() for task in self.execs.values())


class ManagedSandboxes:
    """All sandboxes of one server."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor
        self._sandboxes: dict[str, Sandbox] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def create(self, request: CreateRequest, key: str | None) -> Sandbox:
        """A sandbox; the same one for the same idempotency ``key`` as long as it lives.

        Raises:
            Refused: the profile does not give what is asked.
        """
        self._check(request)
        ident = f"sbx_{hashlib.sha256(key.encode()).hexdigest()[:24] if key else secrets.token_hex(12)}"
        if ident in self._sandboxes:
            return self._sandboxes[ident]
        now = time.monotonic()
        idle = request.idle_timeout_ms or max(LEAST_IDLE, request.timeout_ms)
        made = Sandbox(ident, request.cwd, now + request.timeout_ms / 1000, idle / 1000, now)
        self._sandboxes[ident] = made
        self._watch(made)
        return made

    async def execute(self, ident: str, request: ExecRequest) -> Exec:
        """Start a command behind the earlier ones of its sandbox, or find the one of that id.

        Raises:
            Unknown: there is no such sandbox.
        """
        sandbox = self._get(ident)
        if request.exec_id not in sandbox.execs:
            sandbox.execs[request.exec_id] = asyncio.create_task(self._run(sandbox, request))
            self._forget_old(sandbox)
        return await self._seen(request.exec_id, sandbox.execs[request.exec_id], HOLD)

    async def look(self, ident: str, exec_id: str) -> Exec:
        """How a command is.

        Raises:
            Unknown: there is no such sandbox or execution.
        """
        return await self._seen(exec_id, self._exec(ident, exec_id), 0)

    async def cancel(self, ident: str, exec_id: str) -> Exec:
        """Stop a command, with its process tree. One that has ended stays as it is.

        Raises:
            Unknown: there is no such sandbox or execution.
        """
        task = self._exec(ident, exec_id)
        task.cancel()
        await asyncio.wait([task])
        return await self._seen(exec_id, task, 0)

    async def terminate(self, ident: str) -> None:
        """End a sandbox, and what runs in it.

        Raises:
            Unknown: there is no such sandbox.
        """
        sandbox = self._get(ident)
        del self._sandboxes[ident]
        if sandbox.timer:
            sandbox.timer.cancel()
        for task in sandbox.execs.values():
            task.cancel()
        await self._executor.release_trajectory(sandbox.id)

    async def _run(self, sandbox: Sandbox, request: ExecRequest) -> Exec:
        sandbox.used = time.monotonic()
        command = request.command
        if request.stdin_data is not None:
            # Files carry what a command line cannot; gone by the time that the command begins.
            path = f"/tmp/.stdin-{call_id(request.exec_id, '', {})}"  # noqa: S108 - in the sandbox
            given = await self._call(sandbox, request, "write_file", path=path, content=request.stdin_data)
            if not given.success:
                return _told(request.exec_id, given)
            command = f"exec < {path}; rm -f {path}\n{command}"
        workdir = request.cwd or sandbox.cwd
        done = await self._call(
            sandbox, request, "terminal", command=command, **({"workdir": workdir} if workdir else {})
        )
        sandbox.used = time.monotonic()
        return _told(request.exec_id, done)

    async def _call(self, sandbox: Sandbox, request: ExecRequest, tool: str, **arguments: str) -> ToolResult:
        timeout = request.timeout_ms / 1000 if request.timeout_ms else None
        key = call_id(request.exec_id, tool, arguments)
        call = ToolCall(name=tool, arguments=arguments)
        return await self._executor.execute(sandbox.id, call, timeout, call_id=key)

    @staticmethod
    async def _seen(exec_id: str, task: asyncio.Task[Exec], hold: float) -> Exec:
        await asyncio.wait([task], timeout=hold)
        if not task.done():
            return Exec(exec_id=exec_id, status=ExecStatus.RUNNING)
        if task.cancelled():
            return Exec(exec_id=exec_id, status=ExecStatus.CANCELLED, returncode=INTERRUPTED)
        return task.result()

    def _watch(self, sandbox: Sandbox) -> None:
        """End the sandbox when its time is over; when it is idle, not while a command runs."""
        now = time.monotonic()
        quiet = now + sandbox.idle if sandbox.busy else sandbox.used + sandbox.idle
        due = min(sandbox.ends, quiet)
        if now < due:
            sandbox.timer = asyncio.get_running_loop().call_later(due - now, self._watch, sandbox)
            return
        ending = asyncio.create_task(self.terminate(sandbox.id))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _check(self, request: CreateRequest) -> None:
        profile = self._executor.backend.profile
        if profile is None:
            raise Refused(f"the profile {self._executor.backend.profile_name!r} is not known to this server")
        if request.image is not None and request.image != profile.image:
            raise Refused(f"the profile's image is {profile.image!r}, not {request.image!r}")
        for asked, given, name in (
            (request.cpu, profile.cpu, "cpu"),
            (request.memory_mib, profile.memory_mib, "memory_mib"),
            (request.disk_mib, profile.disk_mib, "disk_mib"),
        ):
            if asked is not None and given is not None and asked > given:
                raise Refused(f"{name} of the profile is {given}; asked for {asked}: raise it in the fleet's settings")

    def _get(self, ident: str) -> Sandbox:
        try:
            return self._sandboxes[ident]
        except KeyError:
            raise Unknown(f"no sandbox {ident!r}") from None

    def _exec(self, ident: str, exec_id: str) -> asyncio.Task[Exec]:
        try:
            return self._get(ident).execs[exec_id]
        except KeyError as error:
            raise error if isinstance(error, Unknown) else Unknown(f"no execution {exec_id!r}") from None

    @staticmethod
    def _forget_old(sandbox: Sandbox) -> None:
        ended = [exec_id for exec_id, task in sandbox.execs.items() if task.done()]
        for exec_id in ended[: max(0, len(ended) - REMEMBERED)]:
            del sandbox.execs[exec_id]


_ENDED = {
    Status.OK: ExecStatus.COMPLETED,
    Status.TIMEOUT: ExecStatus.TIMEOUT,
    Status.CANCELLED: ExecStatus.CANCELLED,
}


def _told(exec_id: str, done: ToolResult) -> Exec:
    status = _ENDED.get(Status(done.metadata["status"]), ExecStatus.FAILED)
    code = {ExecStatus.TIMEOUT: TIMED_OUT, ExecStatus.CANCELLED: INTERRUPTED, ExecStatus.FAILED: None}
    return Exec(
        exec_id=exec_id,
        status=status,
        output=done.output,
        returncode=code.get(status, done.metadata.get("exit_code")),
        error=None if status is ExecStatus.COMPLETED else done.error,
        fault=done.metadata["fault"],
    )
