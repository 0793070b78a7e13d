"""Saved workspaces, from which other trajectories start: who may, and who still will."""

from collections.abc import Iterable
from typing import NamedTuple

from toolfleet.config.answers import text
from toolfleet.config.contract import FORK_TIMEOUT, ToolCall
from toolfleet.config.lua import Scripts, ms

#: Seconds until somebody looks again whether a snapshot is still wanted, or could be dropped.
LOOK_AGAIN = 30.0


class Origin(NamedTuple):
    """What a first workspace starts from: a snapshot, by its name, and the place where it is."""

    snapshot: str
    place: str


class Saved(NamedTuple):
    """A snapshot."""

    backend: str
    id: str
    place: str
    spec: str
    """Hash of the spec of the sandbox that was saved."""


class Unwanted(NamedTuple):
    """A snapshot that is to be dropped, by its id if it has come to one, or else by its name."""

    name: str
    backend: str
    id: str


class Snapshots(Scripts):
    """One typed method for every script about snapshots."""

    async def begin_save(self, call: ToolCall, boot: str, epoch: int, name: str, saved: Saved) -> bool:
        """Announce that ``name`` is about to be saved for ``call``; False when it is not to be."""
        args = (call.trajectory_id, boot, epoch, call.call_id, name, saved.backend, saved.place, saved.spec)
        return bool(await self._run("begin_save", *args, ms(FORK_TIMEOUT), self._keep))

    async def end_save(self, call: ToolCall, boot: str, epoch: int, name: str, snapshot: str) -> bool:
        """Report that it was saved as ``snapshot``; False when nobody wants it any more."""
        args = (call.trajectory_id, boot, epoch, call.call_id, name, snapshot, ms(LOOK_AGAIN), self._keep)
        return bool(await self._run("end_save", *args, *call.children))

    async def saved(self, name: str, trajectory: str) -> Saved | None:
        """What ``trajectory`` is to start from; None when that is gone, or not meant for it."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hmget(self.key("snapshot", name), ["backend", "id", "place", "spec"])
            pipe.sismember(self.key("forks", name), trajectory)
            fields, wanted = await pipe.execute()
        if not wanted or not all(fields):
            return None
        return Saved(*map(text, fields))

    async def forsake(self, trajectory: str, boot: str, epoch: int, cause: str) -> int:
        """Note that a first workspace cannot start from its snapshot; its generation, 0 when the lease is not held."""
        return int(await self._run("forsake", trajectory, boot, epoch, cause))

    async def due_snapshots(self, places: Iterable[str], *, leaving: bool = False) -> list[Unwanted]:
        """The snapshots at ``places`` that nobody wants any more; asked for again until they are `dropped`.

        ``leaving`` asks for those as well that another worker may be dropping.
        """
        looked = await self._run("due_snapshots", ms(LOOK_AGAIN), self._keep, int(leaving), *places)
        found = [text(v) for v in looked]
        return [Unwanted(*found[i : i + 3]) for i in range(0, len(found), 3)]

    async def dropped(self, name: str) -> None:
        """A snapshot is gone."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.zrem(self.key("snapshots"), name)
            pipe.delete(self.key("snapshot", name), self.key("forks", name))
            await pipe.execute()
