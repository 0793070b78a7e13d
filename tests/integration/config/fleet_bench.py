"""What drives both fleets, the real one and the model: what is known of them, and what must hold after each step."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
from hypothesis.stateful import RuleBasedStateMachine, invariant
from integration.config import rig as bench
from integration.config.fleet_history import History, WatchedState
from integration.config.fleet_model import Model
from integration.config.model_parts import LIVE, Ending, Lease

from toolfleet.config import connection
from toolfleet.config.answers import Holder
from toolfleet.config.contract import ToolCall, ToolResult
from toolfleet.config.snapshots import Origin

T = TypeVar("T")

SLOTS = {"w1": 1, "w2": 2, "w3": 1}
#: Where each worker's sandboxes are: the first two reach one another's.
PLACES = {"w1": "shared", "w2": "shared", "w3": "alone"}
TRAJECTORIES = ("t1", "t2", "t3", "t4", "t5")
#: Calls that run outside the sandbox; of the one trajectory the first, of the other the second.
OUTSIDE = frozenset({"t1.c1", "t2.c0"})
PRODUCERS = ("p1", "p2")
#: Numbers of a trajectory's calls; the last one saves its workspace for another to start from.
NUMBERS = (0, 1, 7)


def ident(trajectory: str, number: int) -> str:
    """The id of a call."""
    return f"{trajectory}.c{number}"


def ending(result: ToolResult) -> Ending:
    """What tells ``result`` from another one."""
    return str(result.status), result.executed, result.output


@dataclass
class Belief:
    """What a worker's process knows of a lease."""

    epoch: int
    lease: Lease | None = None
    """None until the process has claimed it."""


class FleetBench(RuleBasedStateMachine):
    """Two nets: after each step the state in Redis must equal the model's, and the history must keep the invariants of
    DESIGN.md, section 11, which are checked on what was seen and not on what the model says (see `fleet_history`).
    """

    def __init__(self, url: str, seen: Counter[tuple[str, ...]]) -> None:
        super().__init__()
        self.seen = seen
        self.loop = asyncio.new_event_loop()
        self.client = connection.client(url)
        self.state = WatchedState(self.client, bench.settings(url))
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.redis.flushall()
        calls = {t: [ident(t, number) for number in NUMBERS] for t in TRAJECTORIES}
        self.history = self.state.history = History(self.redis, self.state, SLOTS, calls)
        self.model = Model()
        self.boots = dict.fromkeys(SLOTS, 1)
        self.believed: dict[str, dict[str, Belief]] = defaultdict(dict)
        """Worker -> the leases that its process believes to hold."""
        self.holders: dict[str, list[Holder]] = defaultdict(list)
        """Trajectory -> every holder that anybody was told of, the last one last."""
        self.sandboxes: dict[str, list[str]] = defaultdict(list)
        """Trajectory -> every sandbox that was made for it."""
        self.origins: dict[str, Origin] = {}
        """Trajectory -> the snapshot that it is to start from."""
        self.went: dict[str, set[str]] = defaultdict(set)
        """Call -> attempts that passed the gate."""
        self.delivered: dict[tuple[str, str], list[Ending]] = defaultdict(list)
        self.redelivered: Counter[tuple[str, str]] = Counter()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one script to its end."""
        return self.loop.run_until_complete(work)

    def note(self, script: str, real: str, expected: str) -> None:
        """The real verdict must be the expected one."""
        assert real == expected, f"{script}: {real}, and not {expected}"
        self.seen[script, real] += 1

    def chosen(self, trajectory: str) -> str:
        """The worker that the real script has given a trajectory to."""
        return str(self.redis.hget(self.state.key("lease", trajectory), "worker") or "")

    def holder(self, trajectory: str, back: int) -> Holder:
        """One of the trajectory's holders, so many ago."""
        known = self.holders[trajectory]
        return known[-1 - min(back, len(known) - 1)] if known else Holder("w1", "nobody", 1)

    def sandbox(self, trajectory: str, back: int) -> str:
        """One of the trajectory's sandboxes, so many ago."""
        made = self.sandboxes[trajectory]
        return made[-1 - min(back, len(made) - 1)] if made else "never-made"

    def belief(self, holder: Holder, trajectory: str) -> Lease | None:
        """What the process of ``holder`` knows of a lease that it has claimed under that epoch."""
        belief = self.believed[holder.worker].get(trajectory)
        mine = belief is not None and (self.boot(holder.worker), belief.epoch) == (holder.boot, holder.epoch)
        return belief.lease if belief and mine else None

    def learn(self, trajectory: str, holder: Holder | None) -> None:
        """Somebody was told who holds the trajectory."""
        if holder is not None:
            known = self.holders[trajectory]
            known[:] = [other for other in known if other != holder] + [holder]

    def boot(self, worker: str) -> str:
        """Of the process that runs under that name now."""
        return f"{worker}-boot-{self.boots[worker]}"

    @staticmethod
    def call(trajectory: str, number: int) -> ToolCall:
        return ToolCall(call_id=ident(trajectory, number), trajectory_id=trajectory, name="terminal")

    def pick(self, which: int) -> tuple[ToolCall, str]:
        """A call and its trajectory, open ones before ended ones; now and then one that was never submitted."""
        known = sorted(self.model.calls, key=lambda call: (self.model.calls[call].state == "done", call))
        found = known[which % len(known)] if known and which < 5 else "t1.c9"
        trajectory, _, number = found.partition(".c")
        return self.call(trajectory, int(number)), trajectory

    def forget(self, only: str | None) -> None:
        """Redis loses everything, or all that it knows of one trajectory; what was counted begins anew with it."""
        self.replies_are_as_the_model_says()
        if only is None:
            self.redis.flushall()
            self.model = Model()
        else:
            self._forget_one(only)
        self.history.forget()
        self.went.clear()
        self.delivered.clear()
        self.redelivered.clear()

    def _forget_one(self, trajectory: str) -> None:
        key, model = self.state.key, self.model
        calls = [name for name, call in model.calls.items() if call.trajectory == trajectory]
        keys = [key(name, trajectory) for name in ("lease", "calls", "waiter")]
        self.redis.delete(*keys, *(key("call", name) for name in calls))
        for room in self.rooms():
            self.redis.zrem(room, trajectory)
        self.origins.pop(trajectory, None)
        for worker in SLOTS:
            self.redis.srem(key("leases", worker), trajectory)
            model.held.get(worker, set()).discard(trajectory)
        for name in calls:
            del model.calls[name]
        model.leases.pop(trajectory, None)
        model.entered.pop(trajectory, None)
        model.room.pop(trajectory, None)

    def rooms(self) -> list[str]:
        """The keys of all rooms."""
        return [self.state.key("room", f"default{where}") for where in ("", *(f"@{p}" for p in set(PLACES.values())))]

    # -- what must hold after each step

    @invariant()
    def snapshots_are_as_the_model_says(self) -> None:
        """Who has yet to start from them, and which are to go now."""
        due: Any = self.redis.zrangebyscore(self.state.key("snapshots"), "-inf", _now_ms(self.redis))
        assert set(due) == self.model.due
        for name, users in self.model.snapshots.items():
            assert self.redis.smembers(self.state.key("forks", name)) == users
            # Who is to start from it has not done so, and whoever may still do so keeps it.
            named = {t for t, lease in self.model.leases.items() if lease.origin == name}
            assert named <= users or name in self.model.due

    @invariant()
    def replies_are_as_the_model_says(self) -> None:
        """And a result is delivered once to a living producer, and never two different ones to anybody."""
        for producer in PRODUCERS:
            key = self.state.key("replies", producer)
            entries: Any = self.redis.xrange(key)
            self.redis.xtrim(key, maxlen=0)
            real = []
            for _, entry in entries:
                told = ending(ToolResult.model_validate_json(entry["body"])) if entry["kind"] == "result" else None
                real.append((entry["kind"], entry["id"], told))
                self.seen["stream", entry["kind"]] += 1
                if told:
                    self.delivered[producer, entry["id"]].append(told)
            assert sorted(real, key=str) == sorted(self.model.sent.pop(producer, []), key=str)
        endings: dict[str, set[Ending]] = defaultdict(set)
        for (producer, call), found in self.delivered.items():
            assert len(found) <= 1 + self.redelivered[producer, call], f"{call} came {len(found)} times"
            endings[call] |= set(found)
        for call, different in endings.items():
            assert len(different) == 1, f"{call} ended in {different}"

    @invariant()
    def a_call_starts_at_most_once(self) -> None:
        for call, attempts in self.went.items():
            assert len(attempts) <= 1, f"{call} was started by {attempts}"

    @invariant()
    def leases_are_as_the_model_says(self) -> None:
        """And so are slots and the waiting room, where nobody is who has a slot."""
        seen = self.history.look()
        room = [trajectory for key in self.rooms() for trajectory in self.redis.zrange(key, 0, -1)]
        assert set(room) == set(self.model.room)
        for worker, held in seen.held.items():
            assert held == self.model.held.get(worker, set())
        for trajectory, fields in seen.leases.items():
            self._compare_lease(trajectory, fields)
            assert fields.get("state") not in LIVE or trajectory not in room, f"{trajectory} waits with a slot"

    def _compare_lease(self, trajectory: str, fields: dict[str, str]) -> None:
        lease = self.model.leases.get(trajectory)
        assert bool(fields) == (lease is not None)
        if lease is None:
            return
        assert fields["state"] == lease.state
        if lease.epoch:
            assert (int(fields["epoch"]), fields["worker"]) == (lease.epoch, lease.worker)
        if lease.state != "closed":
            assert fields["boot"] == lease.boot
            assert (fields["lost"], fields["used"] == "1") == (lease.lost, lease.used)
            assert int(fields["generation"]) == lease.generation
            assert fields["producer"] == lease.producer
            assert (fields.get("sandbox_id", ""), fields.get("place", "")) == (lease.sandbox, lease.place)
            assert fields.get("origin", "") == lease.origin

    @invariant()
    def every_call_is_in_one_state_of_the_ledger(self) -> None:
        """Open ones are in the index of their trajectory, in order; ended ones are not, and hold a result instead."""
        for trajectory in TRAJECTORIES:
            index: Any = self.redis.zrange(self.state.key("calls", trajectory), 0, -1)
            assert index == self.model.entered.get(trajectory, [])
            for number in NUMBERS:
                name = ident(trajectory, number)
                fields: Any = self.redis.hgetall(self.state.key("call", name))
                call = self.model.calls.get(name)
                assert bool(fields) == (call is not None)
                if call is None:
                    continue
                assert fields["state"] == call.state
                is_open = call.state in ("queued", "started")
                assert (name in index, "body" in fields, "result" in fields) == (is_open, is_open, not is_open)
                if is_open:
                    assert (fields["producer"], fields["boot"]) == (call.producer, call.holder.boot)
                else:
                    assert ending(ToolResult.model_validate_json(fields["result"])) == call.ending


def _now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)
