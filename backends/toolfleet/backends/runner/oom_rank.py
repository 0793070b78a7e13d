"""Whom the kernel picks when memory runs out: a command, never the runner."""

import contextlib
import os
from types import TracebackType

#: The rank of a command, the first to go.
_COMMAND = b"1000"
#: The runner's own while it starts one. A process begins with the rank of whoever starts it, and may have started
#: others before it gets its own: this keeps them before the runner, and the runner behind all other commands.
_STARTING = 500


class OomRank:
    """The runner's own rank, raised while it is entered so that what it starts begins with that.

    Must be made before the runner hides from the sandbox (see `kernel.hide_from_ptrace`), which closes these files to
    the runner as well. Where they are closed anyway commands get their rank a moment after their start.
    """

    def __init__(self) -> None:
        self._proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        self._own: int | None = None
        self._usual = b"0"
        with contextlib.suppress(OSError):
            self._own = os.open("self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC, dir_fd=self._proc)
            self._usual = os.pread(self._own, 16, 0).strip()
        self._raised = str(max(_STARTING, int(self._usual))).encode()

    def __enter__(self) -> None:
        self._set(self._raised)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._set(self._usual)

    def give(self, pid: int) -> None:
        """Give a command its rank; what it starts from now on has it too."""
        try:
            fd = os.open(f"{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except OSError:  # it has ended already
            return
        try:
            os.write(fd, _COMMAND)
        except OSError:
            pass
        finally:
            os.close(fd)

    def _set(self, rank: bytes) -> None:
        if self._own is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._own, rank, 0)
