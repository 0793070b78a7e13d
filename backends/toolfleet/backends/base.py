"""The two interfaces of every backend: how a sandbox comes to be (`Backend`), and what is done in it (`Sandbox`).

A backend is imported by `registry` on first use. Everything here is asyncio; nothing blocks the loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from toolfleet.config.profile import Profile

Operation = Literal[
    "exec", "spawn", "process", "shell",
    "read", "write", "unpack", "get", "put", "commit", "drop", "list", "pack", "search", "patch", "lint",
]  # fmt: skip

Known = Literal["running", "finished", "unknown"]


#: Until the first ping: seconds that a runner lives without hearing from a worker.
FIRST_TTL = 60.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a sandbox belongs to; written on the sandbox so that others can tell."""

    fleet: str
    worker_id: str


@dataclass(frozen=True, slots=True)
class SandboxRef:
    """Enough to find a sandbox again from another process: JSON-safe, no handle inside."""

    backend: str
    id: str
    address: str
    """Where the runner listens: a unix socket path for local engines."""
    place: str
    """From where it can be reached: workers whose backend has it among `Capabilities.places` can attach to it."""
    secret: str = field(default="", repr=False, compare=False)
    """What whoever attaches must know (hexadecimal), where commands could reach the address too; never to be logged."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do and how it holds its limits; shown by ``toolfleet doctor``."""

    networks: frozenset[str]
    limits: Mapping[str, str]
    """Mechanism behind each limit that can be held: ``memory``, ``disk``, ``pids``, ``cpu``."""
    attach: Literal["anywhere", "host", "never"]
    """From where another worker can take over a sandbox."""
    places: frozenset[str] = frozenset()
    """Workers that name the same place can attach to each other's sandboxes of that place."""
    snapshots_at: str = ""
    """The place of what sandboxes are saved as: workers that name it too can start others from there. Empty where none
    can be saved."""
    reset: bool = False
    """Sandboxes can be made what they were at their start, see `Sandbox.reset`, where the profile asks for it."""
    pty: bool = False
    """Commands can have a terminal."""
    notes: tuple[str, ...] = ()
    """Limits that a user should know, in sentences."""

    @property
    def snapshot(self) -> bool:
        """Sandboxes can be saved, and others started from what was saved."""
        return bool(self.snapshots_at)


@dataclass(frozen=True, slots=True)
class Request:
    """One operation for the runner; ``call_id`` makes it run at most once, however often it is sent.

    ``args`` by operation (strings are UTF-8, paths absolute or relative to the profile's workdir):

    * ``exec``: ``command`` (str, run by ``bash -c``, or ``sh -c`` where there is no bash), optional ``cwd`` (str)
      and ``env`` (dict added to the profile's), ``pty`` (with ``rows`` and ``columns``): on a terminal without input.
    * ``read``: ``path``, ``offset`` (first line, from 1), ``limit`` (lines), ``max_bytes``. Outcome: ``stdout`` holds
      the raw bytes of those lines; ``detail`` = ``{"size", "total_lines" (None when not counted to the end),
      "next_offset" (None at the end)}``.
    * ``write``: ``path``, optional ``mode`` (int); content in ``body``. Parents are made, the file is replaced
      atomically. ``detail`` = ``{"bytes", "sha256", "dirs_created"}``.
    * ``unpack``: ``dest``; a tar archive, plain or compressed, in ``body``. Members that would leave ``dest`` are
      refused. ``detail`` = ``{"members"}``. Or ``stage`` instead of the body, with ``size`` and ``sha256``.

    Transfers in parts go through *stages*, files that only the runner sees, under an id of the caller's own:

    * ``put``: ``stage``, ``offset``; a part of its content in ``body``, in any order. ``detail`` = ``{"bytes"}``.
    * ``commit``: ``stage``, ``path``, optional ``mode``, ``size`` and ``sha256``; what was put becomes the file, as by
      ``write``, and the stage is used up, also by a failure.
    * ``get``: ``path`` or ``stage``, ``offset``, ``length``, ``digest`` (bool). Outcome: ``stdout`` holds the bytes,
      fewer than asked where the runner's memory is short; ``detail`` = ``{"bytes", "size", "mode", "mtime", "eof",
      "version"}`` and, if asked and this is the whole file or ``length`` is 0, its ``sha256``.
    * ``pack``: ``path``, ``format`` (``tar``, ``tar.gz``), ``max_bytes``, ``max_entries``, ``stage``; without a stage
      the archive is printed, and bounded as by ``get``. ``detail`` = ``{"bytes", "entries", "left_out", "skipped"}``;
      ``too_large`` beside the error when a bound was passed.
    * ``drop``: ``stage``. Idempotent.

    Of files and trees (JSON objects in lines on ``stdout``; names that are no UTF-8 hold lone surrogates):

    * ``list``: ``path``, ``recursive``, ``max_entries``. Lines are ``{"path", "is_dir", "size", "mtime", "mode",
      "link"}``; ``detail`` = ``{"entries", "truncated"}``.
    * ``search``: ``path``, ``pattern``, ``mode`` (``content``, ``files_only``, ``count``: a regular expression;
      ``names``: a glob), ``glob``, ``limit``, ``offset``, ``context``. Lines are ``{"path", "line", "content",
      "before", "after"}``, ``{"path"}`` or ``{"path", "count"}``; ``detail`` = ``{"total_count",
      "total_count_is_lower_bound", "truncated", "searched_in_part"}``.
    * ``patch``: ``path``; JSON in ``body``: ``{"mode": "replace", "old_string", "new_string", "replace_all"}`` for
      that file, or ``{"mode": "patch", "patch"}`` in the format V4A with paths from that directory. ``detail`` =
      ``{"diff", "files_modified", "files_created", "files_deleted", "no_change", "reading", "sha256"}``.
    * ``lint``: ``path``. ``detail`` = ``{"status", "output" or "message"}``.

    ``get``, ``pack``, ``list``, ``search`` and ``patch`` take ``confined``: a path that leads out of the workdir, links
    followed, is refused, with ``outside`` beside the error.

    Of what outlives its call:

    * ``spawn``: a background process, which outlives its call: ``command``, ``cwd`` and ``env`` as for ``exec``,
      ``pty`` (with ``rows`` and ``columns``), ``idle`` (a shell: it does not count while nothing runs in it). The
      outcome comes at once; ``detail`` = what ``poll`` says. Its input stays open.
    * ``process``: ``action`` and, but for ``list``, ``process`` (an id, or four or more of its first hexadecimal
      digits). ``detail`` = ``{"process", "pid", "command", "cwd", "pty", "status" (running, exited), "age", "uptime"
      (seconds), "log_start" (bytes dropped), "log_end", "exit_code" (at the end)}``, ``stdout`` = the last ``tail``
      bytes of its output. ``list``: ``detail`` = ``{"processes": [the same, with "preview"]}``. ``poll``: no more.
      ``log``: ``stdout`` = ``limit`` bytes from ``offset`` on, or, with ``resume``, from where the last such look
      stopped; also ``{"offset", "next_offset", "moments"}``: [offset, seconds since the start] of what a terminal
      printed. ``wait``: until its end, at most ``seconds``. ``settle``: until a shell on a terminal rests, at most
      ``seconds``; also ``{"settled"}``. ``kill``: with all its descendants; also ``{"survivors", "already_exited"}``.
      ``write``: ``data`` (str), ``eof`` to close the input behind it; also ``{"written", "complete"}``. Without such
      a process: exit code 1, ``error``, and ``detail`` = ``{"status": "not_found"}``.
    * ``shell``: ``command`` in the persistent shell ``name``, one at a time. ``detail`` = ``{"shell", "began",
      "state"}``: how the command found its shell (``kept``, ``new``, ``anew`` after a loss), and how it left it
      (``kept``, ``restored`` to what it was before, ``lost``).
    """

    call_id: str
    op: Operation
    args: Mapping[str, Any]
    timeout: float
    """Seconds; at the deadline the whole process tree of the call is killed inside the sandbox."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request, as the runner saw it."""

    exit_code: int
    """The command's own; 128 + n after signal n, 124 after the deadline, 130 after a cancellation."""
    timed_out: bool
    cancelled: bool
    stdout: bytes
    """Head and tail when more was printed than is kept; see ``stdout_dropped``."""
    stderr: bytes
    stdout_head: int
    """Bytes of ``stdout`` that stand before the gap; len(stdout) when there is no gap."""
    stderr_head: int
    stdout_dropped: int
    """Bytes missing at the gap."""
    stderr_dropped: int
    ran: float
    """Seconds from start to end, by the runner's monotonic clock."""
    error: str | None = None
    """Why the operation could not do its work (file not found, no space left ...), in a sentence; None for exec."""
    detail: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Sandbox(Protocol):
    """One live sandbox and the channel to the runner inside it."""

    ref: SandboxRef

    async def run(self, request: Request) -> Outcome:
        """Run ``request`` and wait for its outcome.

        A request whose ``call_id`` the runner has already seen is not run again: its outcome is returned, or awaited.
        Cancelling the awaiting coroutine does not stop the command; `cancel` does.

        Raises:
            SandboxLost: the runner is gone; ``sent`` False when the request provably never reached it.
        """
        ...

    async def cancel(self, call_id: str) -> bool:
        """Kill the process tree of a running call; its `run` then returns with ``cancelled`` set. False if unknown."""
        ...

    async def claim(self, epoch: int) -> None:
        """Take the sandbox over under ``epoch`` of its lease; holders of lower epochs are refused from now on.

        Raises:
            SandboxLost: the runner is gone, or has been claimed under a higher epoch.
        """
        ...

    async def query(self, call_id: str) -> Known:
        """What the runner knows of a call; ``unknown`` means that it provably never began, or ended long ago.

        Raises:
            SandboxLost: the runner is gone.
        """
        ...

    async def ping(self, ttl: float) -> int:
        """Prove that the runner answers, and let it end its sandbox when it hears nothing for ``ttl`` seconds.

        Returns how many processes run in the sandbox besides the runner.

        Raises:
            SandboxLost: it does not answer.
        """
        ...

    async def snapshot(self, name: str) -> str:
        """Save the files of the sandbox as they are, and return the id by which `Backend.create` starts from them.

        Processes are not part of it, nor are memory and what is mounted in it for ``/dev/shm``. The sandbox goes on;
        commands may be frozen meanwhile. ``name`` is new, and made of letters, digits and ``-``: by it `Backend.drop`
        finds what was saved when the answer never came.

        Raises:
            SpecRefused: sandboxes of this profile or backend cannot be saved.
            SandboxLost: the sandbox is gone.
        """
        ...

    async def reset(self) -> None:
        """Make the sandbox what it was at its start, and prove it; only then may it serve another trajectory.

        Every process but the runner ends, files are restored, the runner forgets calls and epochs. Whatever it raises,
        the sandbox may only be destroyed after it.

        Raises:
            SpecRefused: it is not reset at all: destroying is cheap here, or its uses are up.
            NotPristine: it is not proven to be as it was.
            SandboxLost: it is gone.
        """
        ...

    async def detach(self) -> None:
        """Close this process's channel and leave the sandbox running."""
        ...

    async def close(self) -> None:
        """Destroy the sandbox: every process, mount, file and socket of it. Idempotent."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Makes, finds and removes sandboxes of one kind."""

    name: str
    """By which a sandbox's reference leads to its backend in any worker: short, or ``package.module:Class``."""
    deviations: ClassVar[Mapping[str, str]]
    """Names of the checks in `toolfleet.backends.conformance` that sandboxes do not pass, with the reason."""

    async def probe(self) -> Capabilities:
        """Find out by trying whether this machine can run the backend.

        Raises:
            BackendUnavailable: it cannot; the message says what to install or allow.
        """
        ...

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> Sandbox:
        """Start a sandbox and return once its runner answers; nothing is left behind on failure.

        ``origin`` is a snapshot to start from (see `Sandbox.snapshot`); None starts from what the profile says.

        Raises:
            BackendUnavailable, SpecRefused: trying again will not help.
            SnapshotLost: there is nothing to start from.
            SandboxStartFailed: trying again may help.
        """
        ...

    async def attach(self, ref: SandboxRef) -> Sandbox:
        """Open a channel to a sandbox that another process made.

        Raises:
            SandboxLost: nothing answers at its address.
        """
        ...

    async def list(self, owner: Owner | None = None) -> list[SandboxRef]:
        """The sandboxes of ``owner`` that exist on this machine; of everybody when None.

        What dead ones left behind is removed on the way.
        """
        ...

    async def tidy(self, fleet: str = "") -> None:
        """Remove what is provably dead, whoever notices it first; called every half minute by every worker.

        What lies where other fleets have theirs, too, goes only when it is of ``fleet``.

        Raises:
            SandboxLost: something could not be looked at; it is the next time.
        """
        ...

    async def destroy(self, ref: SandboxRef) -> None:
        """Remove a sandbox by reference. Idempotent."""
        ...

    async def drop(self, snapshot: str) -> None:
        """Remove a snapshot, by its id or the name that it was given; sandboxes that were started from it go on.

        Idempotent. Where a provider knows no names, one that has no id here goes at its time to live.

        Raises:
            SandboxLost: it cannot be removed now; it can be tried again.
        """
        ...

    async def shutdown(self) -> None:
        """Release what the backend itself holds in this process; sandboxes stay."""
        ...
