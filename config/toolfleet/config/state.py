"""The fleet's state in Redis: one typed method for every script.

The scripts hold the rules; what each one takes and answers stands at its head (``scripts/*.lua``).
"""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Literal, cast

import redis.asyncio

from toolfleet.config import keys
from toolfleet.config.answers import Beat, Claim, Holder, Renounced, Route, text
from toolfleet.config.answers import holder as to_holder
from toolfleet.config.contract import Beginning
from toolfleet.config.ledger import BROKER_KEEP, Ledger
from toolfleet.config.lua import ms
from toolfleet.config.settings import Settings
from toolfleet.config.snapshots import Origin, Snapshots


class FleetState(Ledger, Snapshots):
    """The ledger and the snapshots, and one typed method for every script about trajectories, slots and workers."""

    def __init__(self, connection: redis.asyncio.Redis, settings: Settings) -> None:
        super().__init__(connection, settings)
        self._room = settings.waiting_room
        self._heartbeat_ttl = ms(settings.lease_ttl)
        self._breaker = settings.breaker
        self.grace = 2 * settings.heartbeat
        """Seconds after which every worker has had the time to say that it lives."""

    # -- placement: trajectories and slots

    async def route(
        self,
        trajectory: str,
        producer: str,
        profile: str,
        *,
        sweep: str,
        beginning: Beginning,
        wait: float,
        known_epoch: int = 0,
        forgotten: Literal["", "tell", "told"] = "",
        judge: bool = True,
        origin: Origin | None = None,
    ) -> Route:
        """Find or make the lease of ``trajectory``.

        ``wait`` is how many seconds it may stay in the waiting room; ``known_epoch`` is the last epoch under which
        the producer knew it to be held, so that a Redis that has lost its state cannot lose a workspace in silence:
        the verdict is ``forgotten`` until ``forgotten`` says how to begin anew. ``judge`` says whether a holder whose
        heartbeat lapsed counts as dead, see `toolfleet.config.contact`. The first workspace starts from ``origin``,
        with a worker that reaches its place, if that is named.
        """
        found = await self._run(
            "route",
            trajectory,
            producer,
            profile,
            sweep,
            beginning.model_dump_json(),
            self._room,
            ms(wait),
            self._keep,
            self._result_keep,
            ms(self.grace) if judge else self._keep,
            known_epoch,
            forgotten,
            *(origin or ("", "")),
        )
        return Route(text(found[0]), to_holder(found[1:]))

    async def leave(self, trajectory: str) -> Holder | None:
        """Stop waiting for a slot; the holder when one was given in the meantime."""
        return to_holder((await self._run("leave", trajectory))[1:])

    async def close(self, trajectory: str, origin: Origin | None = None) -> Holder | None:
        """Take no more calls for ``trajectory``, which was to start from ``origin``; the holder that must be told."""
        snapshot = origin.snapshot if origin else ""
        return to_holder(await self._run("close", trajectory, self._keep, self._result_keep, snapshot))

    async def claim(self, trajectory: str, boot: str, epoch: int) -> Claim | None:
        """Take up a lease as its holder; None when it is held elsewhere."""
        found = await self._run("claim", trajectory, boot, epoch)
        if not found:
            return None
        profile, setup, generation, lost, producer, sweep, used, age, sandbox, origin, *started = map(text, found)
        return Claim(
            profile,
            Beginning.model_validate_json(setup or "{}"),
            int(generation),
            lost,
            producer,
            sweep,
            used == "1",
            int(age) / 1000,
            json.loads(sandbox) if sandbox else None,
            origin,
            started,
        )

    async def furnish(self, trajectory: str, boot: str, epoch: int, sandbox: Mapping[str, str]) -> int:
        """Note where the workspace is (fields of a sandbox's reference).

        Returns its generation, 0 when the lease is held elsewhere.
        """
        args = (trajectory, boot, epoch, json.dumps(dict(sandbox)), sandbox["id"], sandbox["place"])
        return int(await self._run("furnish", *args))

    async def renounce(
        self, trajectory: str, boot: str, epoch: int, sandbox_id: str, cause: str, *, reused: bool = False
    ) -> Renounced:
        """Give up the sandbox of a lease; whether it may be destroyed, and the generation of the workspace after it.

        With ``reused`` a sandbox may serve one trajectory after another, and only its holder is told to destroy it.
        """
        verdict, generation = await self._run("renounce", trajectory, boot, epoch, sandbox_id, cause, int(reused))
        return Renounced(text(verdict) == "destroy", int(generation))

    async def hand_over(self, trajectory: str, holder: Holder) -> bool:
        """Have another worker go on with a workspace; False when none can."""
        return bool(await self._run("hand_over", trajectory, *holder, self._keep, self._result_keep))

    async def announce(self, trajectory: str, holder: Holder, lease: Mapping[str, str | int], age: float = 0.0) -> bool:
        """Tell a Redis that has lost its state of a lease (fields of its hash); False when it is not the holder's.

        ``age`` is that of its workspace, in seconds.
        """
        args = (trajectory, *holder, self._keep, self._result_keep, json.dumps(dict(lease)), ms(age))
        return bool(await self._run("announce", *args))

    async def release(self, trajectory: str, holder: Holder) -> bool:
        """End a lease and give its slot on; False when it was not the holder's any more."""
        args = (trajectory, holder.worker, holder.boot, holder.epoch, self._keep, self._result_keep)
        return bool((await self._run("release", *args))[0])

    async def heartbeat(
        self, worker: str, boot: str, facts: Mapping[str, str | int], leases: Iterable[tuple[str, int]]
    ) -> Beat:
        """Say that ``worker`` lives and believes to hold ``leases`` (trajectory, epoch)."""
        pairs = list(leases)
        flat = [value for pair in pairs for value in pair]
        times = (self._heartbeat_ttl, self._keep, self._result_keep)
        found = await self._run("heartbeat", worker, boot, *times, json.dumps(facts), len(pairs), *flat)
        lost, unknown, orphaned, closing, forgotten = ([text(item) for item in part] for part in found)
        pairs_unknown = [(t, int(epoch)) for t, epoch in zip(unknown[::2], unknown[1::2], strict=True)]
        return Beat(lost, pairs_unknown, orphaned, closing, forgotten)

    async def recover(
        self, worker: str, boot: str, cause: str, *, grace: float | None = None, until_ms: int | None = None
    ) -> bool:
        """Hand over or end the leases of a worker that is gone; True when nothing is left to do.

        With ``grace``, in seconds, a worker is left alone whose heartbeat has not lapsed for longer than that. After
        ``until_ms``, a time of Redis, nothing is done: the command was on its way for too long.
        """
        times = ("" if grace is None else ms(grace), "" if until_ms is None else until_ms)
        return bool(await self._run("recover", worker, boot, cause, self._keep, self._result_keep, *times))

    async def retire(self, worker: str, boot: str) -> None:
        """A worker leaves in order: what it still holds ends, and its queue goes."""
        while not await self.recover(worker, boot, f"worker {worker} stopped"):
            pass
        await self.redis.delete(*keys.broker_keys(self.fleet, worker))

    async def keep_broker_keys(self, worker: str) -> None:
        """Give the transport's keys a TTL, far beyond any pause of a fleet that is in use."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for name in keys.broker_keys(self.fleet, worker) + keys.shared_broker_keys(self.fleet):
                pipe.pexpire(name, BROKER_KEEP)
            await pipe.execute()

    async def lapsed(self, grace: float) -> list[tuple[str, str]]:
        """Workers (name, boot) whose heartbeat lapsed ``grace`` seconds ago and which nobody has recovered."""
        return await self._lapsed(await self._now_ms() - ms(grace))

    async def _lapsed(self, latest: int) -> list[tuple[str, str]]:
        names = await self.redis.zrangebyscore(self.key("workers"), "-inf", latest)
        boots = [await self.redis.hget(self.key("worker", text(name)), "boot") for name in names]
        return [(text(name), text(boot or "")) for name, boot in zip(names, boots, strict=True)]

    async def recover_lapsed(self, but: str = "", *, grace: float | None = None) -> list[str]:
        """Hand over or end the leases of every worker whose heartbeat lapsed, except ``but``; the names of those.

        Anyone may do it who has been in touch with Redis all the time (see `toolfleet.config.contact`): the script
        makes sure that each is recovered once. Where an answer takes long, Redis may have been away just now, and
        nothing is done. The ``grace`` is two heartbeats when None.
        """
        grace = self.grace if grace is None else grace
        began = time.monotonic()
        now = await self._now_ms()
        gone = [(worker, boot) for worker, boot in await self._lapsed(now - ms(grace)) if worker != but]
        if time.monotonic() - began > self.grace:
            return []
        for worker, boot in gone:
            said = f"worker {worker} died"
            while not await self.recover(worker, boot, said, grace=grace, until_ms=now + ms(self.grace)):
                pass
            # The messages in its queue were only carriage; the ledger has had its say.
            await self.redis.delete(*keys.broker_keys(self.fleet, worker))
        return [worker for worker, _ in gone]

    async def inherited(self, worker: str) -> int:
        """How many leases have been handed to ``worker`` since it came up."""
        return int(await self.redis.hget(self.key("worker", worker), "inherited") or 0)

    # -- the budget for starting sandboxes

    async def begin_start(self, spec: str, attempt: str, *, most: int, rate: float, ttl: float) -> tuple[str, float]:
        """Ask to start a sandbox of ``spec`` (its hash); (verdict, seconds to wait)."""
        args = (spec, attempt, most, str(rate), ms(ttl), self._keep)
        verdict, wait = await self._run("begin_start", *args)
        return text(verdict), int(wait) / 1000

    async def end_start(self, spec: str, attempt: str, *, ok: bool) -> float:
        """Report how a start ended; the seconds for which nobody tries now."""
        rules = self._breaker
        args = (spec, attempt, int(ok), rules.failures, ms(rules.pause), ms(rules.cap), self._keep)
        return int(await self._run("end_start", *args)) / 1000

    # -- plain keys

    async def put_blob(self, digest: str, content: bytes) -> None:
        """Keep an archive under its SHA-256, or prolong its stay."""
        name = self.key("blob", digest)
        if not await self.redis.pexpire(name, self._keep):
            await self.redis.set(name, content, px=self._keep)

    async def blob(self, digest: str) -> bytes | None:
        """The archive of that SHA-256."""
        return cast("bytes | None", await self.redis.get(self.key("blob", digest)))

    async def put_part(self, call: str, content: bytes) -> None:
        """Lay content beside the ledger, for the other side of ``call``; it stays as long as a result."""
        await self.redis.set(self.key("part", call), content, px=self._result_keep)

    async def part(self, call: str) -> bytes | None:
        """What lies beside the ledger for ``call``."""
        return cast("bytes | None", await self.redis.get(self.key("part", call)))

    async def drop_part(self, call: str) -> None:
        """Remove what lies beside the ledger for ``call``. Idempotent."""
        await self.redis.unlink(self.key("part", call))

    async def producer_alive(self, producer: str, ttl: float) -> None:
        """A producer's heartbeat: it lives, and reads its replies, for ``ttl`` seconds more."""
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.set(self.key("producer", producer), "1", px=ms(ttl))
            pipe.pexpire(self.key("replies", producer), self._keep)
            await pipe.execute()

    async def producer_gone(self, producer: str) -> None:
        """A producer leaves: nobody reads its replies any more."""
        await self.redis.delete(self.key("producer", producer), self.key("replies", producer))

    async def workers(self) -> dict[str, dict[str, str]]:
        """The live workers, each with the fields of its hash and ``used``, its slots in use."""
        now = await self._now_ms()
        names = [text(n) for n in await self.redis.zrangebyscore(self.key("workers"), f"({now}", "+inf")]
        found = {}
        for name in names:
            fields = await self.redis.hgetall(self.key("worker", name))
            used = await self.redis.scard(self.key("leases", name))
            found[name] = {text(k): text(v) for k, v in fields.items()} | {"used": str(used)}
        return found

    async def waiting(self, profiles: Iterable[str] = ("default",)) -> int:
        """How many trajectories wait for a slot of one of ``profiles``, at whichever place."""
        profiles = list(profiles)
        facts = [field for worker in (await self.workers()).values() for field in worker]
        places = {field.removeprefix("reaches:") for field in facts if field.startswith("reaches:")}
        rooms = [*profiles, *(f"{profile}@{place}" for profile in profiles for place in places)]
        return sum([await self.redis.zcard(self.key("room", room)) for room in rooms])
