"""A fleet on the test bench: workers and producers without processes, driven script by script on a real Redis."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import redis.asyncio

from toolfleet.config.answers import Beat, Claim, Finished, Holder, Renounced, Route
from toolfleet.config.carriage import Parcel
from toolfleet.config.contract import Beginning, Status, ToolCall, ToolResult, ended
from toolfleet.config.settings import Settings
from toolfleet.config.snapshots import Origin, Saved
from toolfleet.config.state import FleetState

CAUSE = "worker died"
DIED = "worker w1 died"
#: Where sandboxes are that more than one worker reaches.
HOST = "host-a"


def settings(url: str, **overrides: Any) -> Settings:
    """Settings with a heartbeat that lapses only when a test says so."""
    return Settings(redis_url=url, fleet="test", lease_ttl=300.0, **overrides)


def sandbox(ident: str = "s1", place: str = HOST) -> dict[str, str]:
    """The fields of a sandbox's reference."""
    return {"backend": "bubblewrap", "id": ident, "address": f"/run/{ident}", "place": place}


class Rig:
    """Short words for what workers and producers do; names and boots have obvious defaults."""

    def __init__(self, connection: redis.asyncio.Redis, settings: Settings) -> None:
        self.redis = connection
        self.settings = settings
        self.state = FleetState(connection, settings)

    # -- who is there

    async def producer(self, *names: str) -> None:
        """Producers live, and read their replies."""
        for name in names or ("p1",):
            await self.state.producer_alive(name, 300.0)

    async def worker(
        self,
        name: str = "w1",
        *,
        slots: int = 1,
        boot: str = "",
        serves: Sequence[str] = ("default",),
        warm: int = 0,
        accepting: bool = True,
        reaches: Sequence[str] = (),
        held: Iterable[tuple[str, int]] = (),
    ) -> Beat:
        """A heartbeat of a worker; its boot is ``<name>-boot``."""
        facts: dict[str, str | int] = {"slots": slots, "accepting": int(accepting)}
        facts |= {f"serves:{profile}": 1 for profile in serves} | {f"warm:{profile}": warm for profile in serves}
        facts |= {f"reaches:{place}": 1 for place in reaches}
        return await self.state.heartbeat(name, boot or f"{name}-boot", facts, held)

    async def lapse(self, name: str = "w1") -> None:
        """The worker's heartbeat lapsed."""
        await self.redis.zadd(self.state.key("workers"), {name: 1}, xx=True)

    async def recover(self, name: str = "w1", boot: str = "", *, grace: float | None = None) -> int:
        """Recover a worker until nothing is left; how many passes it took."""
        passes = 1
        while not await self.state.recover(name, boot or f"{name}-boot", DIED, grace=grace):
            passes += 1
        return passes

    # -- trajectories

    async def route(
        self, trajectory: str = "t1", producer: str = "p1", *, profile: str = "default", wait: float = 300.0,
        known: int = 0, forgotten: Literal["", "tell", "told"] = "", origin: Origin | None = None,
    ) -> Route:  # fmt: skip
        """Ask for a slot."""
        return await self.state.route(
            trajectory, producer, profile, sweep="s", beginning=Beginning(), wait=wait, known_epoch=known,
            forgotten=forgotten, origin=origin,
        )  # fmt: skip

    async def hold(self, trajectory: str = "t1", producer: str = "p1", origin: Origin | None = None) -> Holder:
        """Have a slot; the worker takes the lease up."""
        holder = (await self.route(trajectory, producer, origin=origin)).holder
        assert holder is not None, "no slot is free"
        assert await self.state.claim(trajectory, holder.boot, holder.epoch)
        return holder

    async def used(self, trajectory: str = "t1", producer: str = "p1") -> Holder:
        """Have a slot in whose workspace a call has run."""
        holder = await self.hold(trajectory, producer)
        await self.ran(holder, trajectory, producer)
        return holder

    async def ran(self, holder: Holder, trajectory: str = "t1", producer: str = "p1") -> None:
        """A call has run in the workspace."""
        call = self.call(f"before-{trajectory}", trajectory, producer)
        assert await self.submit(holder, call) == ["queued"]
        assert await self.start(holder, call) == ["go"]
        assert await self.finish(holder, call) == ["done"]
        await self.replies(producer)

    async def furnish(self, holder: Holder, trajectory: str = "t1", ident: str = "s1", place: str = HOST) -> int:
        """The holder has made a sandbox; the generation of its workspace."""
        return await self.state.furnish(trajectory, holder.boot, holder.epoch, sandbox(ident, place))

    async def saved(self, holder: Holder, *children: str, name: str = "snap", place: str = HOST) -> Origin:
        """The holder of t1 has saved its workspace for ``children``."""
        call = self.fork(*children)
        await self.running(holder, call)
        held = (call, holder.boot, holder.epoch, name)
        assert await self.state.begin_save(*held, Saved("bubblewrap", "", place, "spec"))
        assert await self.state.end_save(*held, f"{name}-id")
        assert await self.finish(holder, call) == ["done"]
        return Origin(name, place)

    async def furnished(self, trajectory: str = "t1", producer: str = "p1", *, place: str = HOST) -> Holder:
        """Have a slot and a sandbox in which a call has run; t1's is s1."""
        holder = await self.hold(trajectory, producer)
        assert await self.furnish(holder, trajectory, f"s{trajectory[1:]}", place)
        await self.ran(holder, trajectory, producer)
        return holder

    async def renounce(
        self, holder: Holder, trajectory: str = "t1", ident: str = "s1", cause: str = CAUSE
    ) -> Renounced:
        """Ask whether a sandbox may be destroyed."""
        return await self.state.renounce(trajectory, holder.boot, holder.epoch, ident, cause)

    async def announce(self, holder: Holder, trajectory: str = "t1", **fields: str | int) -> bool:
        """Tell Redis of a lease with the sandbox s1, in which something has started."""
        lease: Mapping[str, str | int] = {
            "producer": "p1", "profile": "default", "sweep": "s", "setup": "{}", "generation": 1, "lost": "", "used": 1,
            "sandbox": json.dumps(sandbox()), "sandbox_id": "s1", "place": HOST, **fields,
        }  # fmt: skip
        return await self.state.announce(trajectory, holder, lease)

    async def told(self, trajectory: str, holder: Holder) -> str:
        """The cause of a loss that the next reply has to tell."""
        return (await self.claim(trajectory, holder)).lost

    async def claim(self, trajectory: str, holder: Holder) -> Claim:
        """Take a lease up that is the holder's."""
        claim = await self.state.claim(trajectory, holder.boot, holder.epoch)
        assert claim is not None
        return claim

    # -- calls

    def call(self, ident: str = "c1", trajectory: str = "t1", producer: str = "p1") -> ToolCall:
        """A call."""
        return ToolCall(call_id=ident, trajectory_id=trajectory, name="terminal", producer=producer)

    def fork(self, *children: str) -> ToolCall:
        """A call that saves the workspace of t1."""
        return ToolCall(call_id="fork-t1", trajectory_id="t1", name="fork", producer="p1", children=children)

    def result(self, call: ToolCall, output: str = "out", status: Status = Status.OK) -> ToolResult:
        """A result of ``call``."""
        return ended(call, status, executed="yes", output=output)

    async def submit(self, holder: Holder, *calls: ToolCall, producer: str = "") -> list[str]:
        """Enter calls in the ledger."""
        entries = [Parcel(holder, call, call.model_dump_json()) for call in calls]
        return await self.state.submit(producer or calls[0].producer, entries)

    async def start(self, holder: Holder, *calls: ToolCall, attempt: str = "a1", outside: bool = False) -> list[str]:
        """Ask the gate; the verdicts."""
        ids = [call.call_id for call in calls] if outside else []
        asked = [(call, holder.epoch, attempt) for call in calls]
        found = await self.state.start(holder.boot, asked, outside=ids)
        return [verdict for verdict, _ in found]

    async def finish(
        self, holder: Holder, *calls: ToolCall, output: str = "out", status: Status = Status.OK
    ) -> list[str]:
        """Record results."""
        results = [Finished(self.result(call, output, status), holder.epoch) for call in calls]
        return await self.state.finish(holder.boot, results)

    async def running(self, holder: Holder, *calls: ToolCall, outside: bool = False) -> None:
        """Have calls started."""
        assert set(await self.submit(holder, *calls)) <= {"queued", "again"}
        assert await self.start(holder, *calls, outside=outside) == ["go"] * len(calls)

    async def give_up(self, call: ToolCall, *, leave_running: bool = False) -> tuple[str, str, ToolResult | None]:
        """As a producer does at a call's deadline, or when it is cancelled."""
        never = ended(call, Status.FAILED, executed="no", error="deadline")
        lost = None if leave_running else ended(call, Status.UNKNOWN, executed="unknown", error="deadline")
        return await self.state.give_up(call, never, lost)

    # -- what is to be seen

    async def replies(self, producer: str = "p1") -> list[tuple[str, str, str]]:
        """What came on the reply stream since the last look: (kind, id, body)."""
        key = self.state.key("replies", producer)
        entries: Any = await self.redis.xrange(key)
        await self.redis.xtrim(key, maxlen=0)
        return [(_text(entry[b"kind"]), _text(entry[b"id"]), _text(entry[b"body"])) for _, entry in entries]

    async def results(self, producer: str = "p1") -> list[ToolResult]:
        """The results among the replies."""
        found = await self.replies(producer)
        return [ToolResult.model_validate_json(body) for kind, _, body in found if kind == "result"]

    async def placed(self, producer: str = "p1") -> dict[str, Holder]:
        """Trajectory -> holder, of the notices that a slot was given."""
        found = await self.replies(producer)
        return {ident: Holder(**json.loads(body)) for kind, ident, body in found if kind == "placed"}

    async def fields(self, name: str, ident: str) -> dict[str, str]:
        """The hash at a key."""
        found = await self.redis.hgetall(self.state.key(name, ident))
        return {_text(field): _text(value) for field, value in found.items()}

    async def open_calls(self, trajectory: str = "t1") -> list[str]:
        """The open calls of a trajectory, in order."""
        return [_text(ident) for ident in await self.redis.zrange(self.state.key("calls", trajectory), 0, -1)]

    async def leases(self, worker: str = "w1") -> set[str]:
        """The trajectories whose lease a worker holds."""
        return {_text(ident) for ident in await self.redis.smembers(self.state.key("leases", worker))}


def _text(value: Any) -> str:
    return str(value.decode())
