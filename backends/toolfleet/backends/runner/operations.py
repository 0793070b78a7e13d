"""What a request asks for, checked, as something that can be started."""

import contextlib
import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from toolfleet.backends.runner import applets, archive, kernel, procfs
from toolfleet.backends.runner.arguments import encode, mapping, number, text
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.files import dispatch
from toolfleet.backends.runner.files.staging import Stages
from toolfleet.backends.runner.spawn import Applet, Attended, CannotStart, Child, Spawner

_BASE_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "TERM": "dumb",
}

_MARK = procfs.MARK.encode()
_TERMINAL = b"xterm-256color"
#: What a terminal takes for the end of input, at the start of a line: Control-D.
END_OF_INPUT = b"\x04"

#: Size of a terminal when the request names none, and the largest one.
ROWS, COLUMNS = 24, 80
LARGEST = 1000

#: Bytes of a file that `read` returns when the request names no number.
DEFAULT_READ = 1024 * 1024
#: Bytes that one `read` returns at most, whatever the request asks for.
MAX_READ = 64 * 1024 * 1024


class Work(NamedTuple):
    """One operation, ready to start."""

    call_id: str
    kind: str
    args: Mapping[str, Any]
    timeout: float
    """Seconds."""
    spool: int | None = None
    """Unlinked file with the content that came along."""


#: All that a request may ask for, and whether content comes along; `processes` and `shells` see to those of that name.
KINDS = {
    **dict.fromkeys(("exec", "spawn", "process", "shell", "read"), False),
    **dict.fromkeys(("write", "unpack"), True),
    **dispatch.KINDS,
}


def has_body(kind: str) -> bool:
    """Whether the operation takes content along."""
    return KINDS[kind]


class Starter:
    """Turns work into a process."""

    def __init__(self, config: Config, spawner: Spawner, stages: Stages) -> None:
        self._config = config
        self._spawner = spawner
        self._stages = stages
        self._files = dispatch.Files(config, stages, self._path)
        # Checked and encoded once: every call begins with them.
        self._env = _environment({**(_inherited() if config.inherit else _BASE_ENV), **_tar_options(), **config.env})
        self._workdir = config.workdir.encode("utf-8", "surrogateescape")

    def start(self, work: Work) -> Child:
        """Start ``work``.

        Raises:
            CannotStart: its arguments are wrong, or there is no process to be had.
        """
        if work.kind == "exec":
            return self._command(work)
        if work.kind in dispatch.KINDS or "stage" in work.args:
            return self._on_files(work)
        return self._spawner.applet(self._applet(work))

    def attended(self, work: Work) -> tuple[Attended, bytes, tuple[int, int] | None]:
        """Start a command with an input; also returns its directory, and the size of its terminal if it has one.

        Raises:
            CannotStart: as `start`.
        """
        window = _window(work.args)
        env = self._environment(work)
        if window is not None and env[b"TERM"] == _BASE_ENV["TERM"].encode():
            env[b"TERM"] = _TERMINAL
        cwd = self._cwd(work.args)
        command = text(work.args, "command").encode("utf-8", "surrogateescape")
        return self._spawner.attended(command, cwd, env, window), cwd, window

    def interpreter(self, mark: str, script: bytes, held: Mapping[int, int]) -> int:
        """Start a shell that the runner talks to by the descriptors ``held``; its processes carry ``mark``.

        Raises:
            CannotStart: there is no bash, or no process to be had.
        """
        env = self._env | {_MARK: encode(mark, "a mark")}
        return self._spawner.interpreter(script, self._workdir, env, held)

    def _command(self, work: Work) -> Child:
        if work.args.get("pty") is True:
            child, _, _ = self.attended(work)
            with contextlib.suppress(OSError):
                os.write(child.input, END_OF_INPUT)
            os.close(child.input)
            return Child(child.pid, child.output, None)
        command = text(work.args, "command").encode("utf-8", "surrogateescape")
        return self._spawner.command(command, self._cwd(work.args), self._environment(work))

    def _environment(self, work: Work) -> dict[bytes, bytes]:
        env = self._env.copy()
        if work.args.get("env"):
            env |= _environment(mapping(work.args, "env"))
        env[_MARK] = encode(work.call_id, "a call's id")
        return env

    def _cwd(self, args: Mapping[str, Any]) -> bytes:
        return self._workdir if args.get("cwd") is None else self._path(text(args, "cwd"))

    def _on_files(self, work: Work) -> Child:
        applet, used_up = self._files.applet(work.kind, work.args, work.spool)
        try:
            return self._spawner.applet(applet)
        finally:
            if used_up is not None:  # the child has it
                self._stages.drop(used_up)

    def _applet(self, work: Work) -> Applet:
        disk = self._config.disk
        name = "dest" if work.kind == "unpack" else "path"
        path = self._path(text(work.args, name))
        if work.kind == "read":
            offset = number(work.args, "offset", 1) or 1
            limit = number(work.args, "limit", None)
            # What is read passes through the runner's memory, a few copies at a time.
            most = min(number(work.args, "max_bytes", DEFAULT_READ) or 0, MAX_READ, self._config.memory // 8)
            return lambda out: applets.guarded(lambda: applets.read(out, path, offset, limit, most), path, disk)
        if work.spool is None:
            raise CannotStart(f"Cannot start an operation of the kind {work.kind!r}")
        if work.kind == "write":
            job = functools.partial(applets.write, work.spool, path, number(work.args, "mode", None))
        else:
            job = functools.partial(archive.unpack, work.spool, path)
        return lambda _: applets.guarded(job, path, disk)

    def _path(self, path: str) -> bytes:
        if not path:
            raise CannotStart("The path is empty")
        encoded = encode(path, "a path")
        if encoded.startswith(b"/"):
            return encoded
        return os.path.join(self._workdir, encoded)


def _inherited() -> dict[str, str]:
    """The environment in which the engine has started the runner, with what it has left open."""
    return {**_BASE_ENV, **_who(), **os.environ}


def _who() -> dict[str, str]:
    """Home and name of the runner's user, as the image's list of users has them."""
    with contextlib.suppress(OSError), open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(":")
            if len(fields) >= 6 and fields[2] == str(os.getuid()):
                return {"USER": fields[0], "HOME": fields[5]}
    return {"USER": str(os.getuid()), "HOME": "/"}


def _tar_options() -> dict[str, str]:
    """Root that may not give files away can restore no owner, and tar as root would fail at it."""
    powerless = os.getuid() == 0 and (not kernel.capable(kernel.CAP_CHOWN) or _single_user())
    return {"TAR_OPTIONS": "--no-same-owner"} if powerless else {}


def _single_user() -> bool:
    """Whether only one user exists in this user namespace, so that there is nobody to give files to."""
    with open("/proc/self/uid_map") as file:
        return sum(int(line.split()[2]) for line in file) == 1


def _environment(env: Mapping[str, str]) -> dict[bytes, bytes]:
    return {encode(k, "an environment variable"): encode(v, "an environment variable") for k, v in env.items()}


def _window(args: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of the terminal that is asked for, None when there is to be none."""
    if args.get("pty") is not True:
        return None
    rows, columns = number(args, "rows", ROWS), number(args, "columns", COLUMNS)
    if not rows or not columns or not (0 < rows <= LARGEST and 0 < columns <= LARGEST):
        raise CannotStart(f"A terminal has 1 to {LARGEST} rows and columns")
    return rows, columns
