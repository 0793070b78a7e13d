"""What counts as an outage of Redis, and the connections that tell it from a mistake."""

import re
from typing import Any

import hiredis
import redis.exceptions
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection

#: What is raised when the server cannot be reached, or does not take commands for now.
OUTAGES = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    OSError,
)

#: Answers of a server that passes: a replica before or after a failover, no memory, no replica, no disk, a long script.
#: Each comes before the command, or the first write of a script, has changed anything. Before Redis 7 those to a script
#: stand in the middle of its error.
_FOR_NOW = re.compile(
    r"(?:^|[ :]-)(READONLY|OOM|MASTERDOWN|CLUSTERDOWN|LOADING|TRYAGAIN|NOREPLICAS|MISCONF|UNBLOCKED|BUSY) "
)

#: redis-py takes the code away from the words of errors that it has a class for.
_CODES: dict[type, str] = {
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
}


class RefusedForNow(redis.exceptions.ConnectionError):
    """Redis answers, and takes no command, or no write, for now: an outage like any other, to be waited out."""


def refused_for_now(error: redis.exceptions.ResponseError) -> RefusedForNow | None:
    """``error`` as an outage, when it is one; None when the command itself is at fault."""
    code = _CODES.get(type(error), "")
    if not _FOR_NOW.search(f"{code} {error}".lstrip()):
        return None
    return RefusedForNow(f"{code} {error}".strip())


class Patience(AbstractConnection):
    """The part of a connection that raises `RefusedForNow`, so that retries and everyone's patience cover it as well.

    It ends the connection too: behind an address that moves, the next one may lead to a master.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """One command as it travels, packed by hiredis and not in Python; its name may have two words."""
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """One answer."""
        try:
            return await super().read_response(*args, **options)
        except redis.exceptions.ResponseError as error:
            raise refused_for_now(error) or error from None

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """Send one command."""
        try:
            await super().send_packed_command(*args, **options)
        except RuntimeError as error:
            # uvloop's word for a connection that the other side has reset; redis-py knows those of asyncio alone.
            raise redis.exceptions.ConnectionError(str(error)) from None


class Patient(Patience, Connection):
    pass


class PatientTls(Patience, SSLConnection):
    pass


class PatientSocket(Patience, UnixDomainSocketConnection):
    pass


#: By the scheme of a URL.
KINDS = {"redis": Patient, "rediss": PatientTls, "unix": PatientSocket}
