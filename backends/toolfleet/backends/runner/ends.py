"""The ends of the pipes and terminals that commands are given: ours, which do not block, and theirs.

Every function raises OSError when there are no more of them to be had.
"""

import fcntl
import os
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

#: Descriptors that a child is to find under numbers below this one are lifted above it first, see `lifted`.
_ABOVE = 256


class Outputs(NamedTuple):
    """A pipe for each of the two streams of a command."""

    out: int
    err: int
    their_out: int
    their_err: int


class Sides(NamedTuple):
    """An input, and one output for both streams; a terminal is both."""

    input: int
    output: int
    their_input: int
    their_output: int


def outputs() -> Outputs:
    """For a command without input."""
    out, their_out = _pipe()
    try:
        err, their_err = _pipe()
    except OSError:
        _close(out, their_out)
        raise
    return Outputs(out, err, their_out, their_err)


def pipes() -> Sides:
    """For a command that is attended."""
    output, their_output = _pipe()
    try:
        their_input, mine = os.pipe2(os.O_CLOEXEC)
    except OSError:
        _close(output, their_output)
        raise
    os.set_blocking(mine, False)
    return Sides(mine, output, their_input, their_output)


def terminal(rows: int, columns: int) -> Sides:
    """For a command that wants to see a terminal. Our side is there twice, as two descriptors can be watched apart."""
    mine, theirs = os.openpty()
    try:
        termios.tcsetwinsize(theirs, (rows, columns))
        again = fcntl.fcntl(mine, fcntl.F_DUPFD_CLOEXEC, 0)
    except (OSError, termios.error) as error:
        _close(mine, theirs)
        raise OSError(*error.args) from None
    os.set_blocking(mine, False)
    return Sides(again, mine, theirs, theirs)


@contextmanager
def lifted(held: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """``held`` (number in the child: descriptor) with copies of the descriptors that no number of a child can meet.

    A child's descriptors are put into place one after the other: one that is still to be moved must not be in the way.
    """
    copies: dict[int, int] = {}
    try:
        for number, fd in held.items():
            copies[number] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
        yield copies
    finally:
        _close(*copies.values())


def _pipe() -> tuple[int, int]:
    mine, theirs = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(mine, False)
    return mine, theirs


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
