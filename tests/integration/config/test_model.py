"""Random interleavings of producers, workers and deaths on a real Redis, step by step against `fleet_model`.

Two nets: after each step the state in Redis must equal the model's, and the history must keep the invariants of
DESIGN.md, section 11, which are checked on what was seen and not on what the model says.
"""

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from integration.config import rig as bench
from integration.config.fleet_model import LIVE, Ending, Model

from toolfleet.config import connection
from toolfleet.config.contract import Status, ToolCall, ToolResult, ended
from toolfleet.config.state import Finished, FleetState, Holder

T = TypeVar("T")

SLOTS = {"w1": 1, "w2": 2}
TRAJECTORIES = ("t1", "t2", "t3", "t4", "t5")
PRODUCERS = ("p1", "p2")
#: Verdicts that a run which deserves the name has seen.
EXPECTED = {
    *(("route", v) for v in ("assigned", "held", "waiting", "closed", "unserved")),
    *(("submit", v) for v in ("queued", "again", "done", "moved", "closed")),
    *(("start", v) for v in ("go", "duplicate", "stale", "missing")),
    *(("finish", v) for v in ("done", "late", "stale")),
    *(("give_up", v) for v in ("ended", "started", "done", "missing")),
    *(("stream", v) for v in ("result", "moved", "placed")),
}

trajectories = st.sampled_from(TRAJECTORIES)
workers = st.sampled_from(sorted(SLOTS))
producers = st.sampled_from(PRODUCERS)
numbers = st.sampled_from([0, 1])
#: How many holders ago: mostly the present one, sometimes one that should know better.
ago = st.sampled_from([0, 0, 0, 1])
#: Which call: see `FleetMachine.pick`.
picks = st.integers(0, 5)


class FleetMachine(RuleBasedStateMachine):
    """Drives both fleets, the real one and the model."""

    def __init__(self, url: str, seen: Counter[tuple[str, str]]) -> None:
        super().__init__()
        self.seen = seen
        self.loop = asyncio.new_event_loop()
        self.client = connection.client(url)
        self.state = FleetState(self.client, bench.settings(url))
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.redis.flushall()
        self.model = Model()
        self.boots = dict.fromkeys(SLOTS, 1)
        self.believed: dict[str, dict[str, int]] = defaultdict(dict)
        """Worker -> the leases that its process believes to hold."""
        self.holders: dict[str, list[Holder]] = defaultdict(list)
        """Trajectory -> every holder that anybody was told of, the last one last."""
        self.went: dict[str, set[str]] = defaultdict(set)
        """Call -> attempts that passed the gate."""
        self.delivered: dict[tuple[str, str], list[Ending]] = defaultdict(list)
        self.redelivered: Counter[tuple[str, str]] = Counter()
        self.epochs: dict[str, tuple[int, str]] = {}

    @initialize()
    def begin(self) -> None:
        for producer in PRODUCERS:
            self.producer_lives(producer)
        for worker in SLOTS:
            self.heartbeat(worker, accepting=True)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one script to its end."""
        return self.loop.run_until_complete(work)

    def note(self, script: str, real: str, expected: str) -> None:
        """The real verdict must be the expected one."""
        assert real == expected, f"{script}: {real}, and not {expected}"
        self.seen[script, real] += 1

    def holder(self, trajectory: str, back: int) -> Holder:
        """One of the trajectory's holders, so many ago."""
        known = self.holders[trajectory]
        return known[-1 - min(back, len(known) - 1)] if known else Holder("w1", "nobody", 1)

    def learn(self, trajectory: str, holder: Holder | None) -> None:
        """Somebody was told who holds the trajectory."""
        if holder is not None and holder not in self.holders[trajectory]:
            self.holders[trajectory].append(holder)

    @staticmethod
    def call(trajectory: str, number: int) -> ToolCall:
        return ToolCall(call_id=f"{trajectory}.c{number}", trajectory_id=trajectory, name="terminal")

    def pick(self, which: int) -> tuple[ToolCall, str]:
        """A call and its trajectory, open ones before ended ones; now and then one that was never submitted."""
        known = sorted(self.model.calls, key=lambda ident: (self.model.calls[ident].state == "done", ident))
        ident = known[which % len(known)] if known and which < 5 else "t1.c9"
        trajectory, _, number = ident.partition(".c")
        return self.call(trajectory, int(number)), trajectory

    # -- producers

    @rule(producer=producers)
    def producer_lives(self, producer: str) -> None:
        self.do(self.state.producer_alive(producer, 300.0))
        self.model.producers.add(producer)

    @rule(producer=producers, really=st.sampled_from([False, False, True]))
    def producer_dies(self, producer: str, really: bool) -> None:
        if really:
            self.do(self.state.producer_gone(producer))
            self.model.producers.discard(producer)

    @rule(trajectory=trajectories, producer=producers)
    def route(self, trajectory: str, producer: str) -> None:
        found = self.do(self.state.route(trajectory, producer, "default", sweep="s", setup=[], wait=300.0))
        expected = self.model.route(trajectory, producer, found.holder.worker if found.holder else "")
        self.note("route", found.verdict, expected)
        if found.holder:
            lease = self.model.leases[trajectory]
            assert found.holder == Holder(lease.worker, lease.boot, lease.epoch)
            self.learn(trajectory, found.holder)
        elif found.verdict == "waiting":
            score = self.redis.zscore(self.state.key("room", "default"), trajectory)
            self.model.room[trajectory].since = float(score)  # type: ignore[arg-type]
            self.model.room[trajectory].expired = False

    @precondition(lambda self: self.model.room)
    @rule(trajectory=trajectories)
    def patience_ends(self, trajectory: str) -> None:
        """A waiter's time is up, and it has not said so."""
        if trajectory in self.model.room:
            self.redis.hset(self.state.key("waiter", trajectory), "until", 1)
            self.model.room[trajectory].expired = True

    @rule(trajectory=trajectories)
    def leave(self, trajectory: str) -> None:
        found = self.do(self.state.leave(trajectory))
        assert found == self.model.leave(trajectory)
        self.learn(trajectory, found)

    @rule(trajectory=trajectories, really=st.sampled_from([False, False, False, True]))
    def close(self, trajectory: str, really: bool) -> None:
        if really:
            assert self.do(self.state.close(trajectory)) == self.model.close(trajectory)

    @rule(which=picks, back=ago, producer=producers)
    def submit_again(self, which: int, back: int, producer: str) -> None:
        call, trajectory = self.pick(which)
        self.submit(call, self.holder(trajectory, back), producer)

    def submit(self, call: ToolCall, holder: Holder, producer: str) -> None:
        (found,) = self.do(self.state.submit(producer, [(call, holder, call.model_dump_json())]))
        self.note("submit", found, self.model.submit(call.call_id, call.trajectory_id, holder, producer))
        self.redelivered[producer, call.call_id] += found == "done"

    @rule(which=picks, leave_running=st.booleans())
    def give_up(self, which: int, leave_running: bool) -> None:
        self.end_by_producer(self.pick(which)[0], leave_running)

    def end_by_producer(self, call: ToolCall, leave_running: bool) -> None:
        never = ended(call, Status.FAILED, executed="no")
        lost = None if leave_running else ended(call, Status.UNKNOWN, executed="unknown")
        found, _, result = self.do(self.state.give_up(call, never, lost))
        expected = self.model.give_up(call.call_id, _ending(never), _ending(lost) if lost else None)
        self.note("give_up", found, expected)
        if result is not None:
            assert _ending(result) == self.model.calls[call.call_id].ending

    # -- workers

    @rule(worker=workers, accepting=st.sampled_from([True, True, True, False]))
    def heartbeat(self, worker: str, accepting: bool) -> None:
        """Of the process that runs under that name, dead to the fleet or not."""
        believed = sorted(self.believed[worker].items())
        facts: dict[str, str | int] = {"slots": SLOTS[worker], "accepting": int(accepting), "serves:default": 1}
        beat = self.do(self.state.heartbeat(worker, self.boot(worker), facts, believed))
        lost, unknown, orphaned = self.model.heartbeat(worker, self.boot(worker), SLOTS[worker], accepting, believed)
        assert (set(beat.lost), set(beat.unknown), set(beat.orphaned)) == (lost, unknown, orphaned)
        for trajectory in beat.lost:
            del self.believed[worker][trajectory]
        for trajectory, epoch in beat.unknown:
            self.believed[worker][trajectory] = epoch
            self.learn(trajectory, Holder(worker, self.boot(worker), epoch))

    @rule(worker=workers)
    def lapse(self, worker: str) -> None:
        """The heartbeat lapses; the process may live on and know nothing of it."""
        self.redis.zadd(self.state.key("workers"), {worker: 1}, xx=True)
        if worker in self.model.workers:
            self.model.workers[worker].alive = False

    @rule(worker=workers)
    def restart(self, worker: str) -> None:
        """Another process under the same name; it says so with its next heartbeat."""
        self.boots[worker] += 1
        self.believed[worker].clear()

    @rule(worker=workers, stale=st.sampled_from([False, False, True]), if_lapsed=st.booleans())
    def recover(self, worker: str, stale: bool, if_lapsed: bool) -> None:
        known = self.model.workers.get(worker)
        boot = "long-gone" if stale or known is None else known.boot
        while not self.do(self.state.recover(worker, boot, bench.CAUSE, if_lapsed=if_lapsed)):
            pass
        self.model.recover(worker, boot, bench.CAUSE, if_lapsed)

    @rule(trajectory=trajectories, back=ago)
    def claim(self, trajectory: str, back: int) -> None:
        holder = self.holder(trajectory, back)
        found = self.do(self.state.claim(trajectory, holder.boot, holder.epoch))
        assert (found.lost if found else None) == self.model.claim(trajectory, holder)
        if found:
            self.believed[holder.worker][trajectory] = holder.epoch
            assert found.generation == self.model.leases[trajectory].generation

    @rule(trajectory=trajectories, back=ago)
    def renew_workspace(self, trajectory: str, back: int) -> None:
        holder = self.holder(trajectory, back)
        found = self.do(self.state.renew_workspace(trajectory, holder.boot, holder.epoch))
        assert found == self.model.renew_workspace(trajectory, holder)

    @rule(trajectory=trajectories, back=ago)
    def release(self, trajectory: str, back: int) -> None:
        holder = self.holder(trajectory, back)
        assert self.do(self.state.release(trajectory, holder)) == self.model.release(trajectory, holder)
        if holder.boot == self.boot(holder.worker):
            self.believed[holder.worker].pop(trajectory, None)

    @rule(which=picks, back=ago, attempt=st.sampled_from("ab"))
    def start_again(self, which: int, back: int, attempt: str) -> None:
        """A message came twice, or late, or to a worker that is no holder any more."""
        call, trajectory = self.pick(which)
        self.start(call, self.holder(trajectory, back), attempt)

    def start(self, call: ToolCall, holder: Holder, attempt: str) -> None:
        ((found, _),) = self.do(self.state.start(holder.boot, [(call, holder.epoch, attempt)]))
        self.note("start", found, self.model.start(call.call_id, call.trajectory_id, holder, attempt))
        if found == "go":
            self.went[call.call_id].add(attempt)

    @rule(which=picks, back=ago, output=st.sampled_from("xy"), told=st.booleans())
    def finish(self, which: int, back: int, output: str, told: bool) -> None:
        call, trajectory = self.pick(which)
        holder = self.holder(trajectory, back)
        result = ended(call, Status.LOST if told else Status.OK, executed="yes", output=output)
        (found,) = self.do(self.state.finish(holder.boot, [Finished(result, holder.epoch)]))
        self.note("finish", found, self.model.finish(call.call_id, trajectory, holder, _ending(result)))

    @rule(trajectory=trajectories, number=numbers, producer=producers, then=st.sampled_from(["", "start", "give up"]))
    def carry(self, trajectory: str, number: int, producer: str, then: str) -> None:
        """What happens most of the time: a producer lives, routes and submits, and a living worker starts the call."""
        if not any(worker.alive for worker in self.model.workers.values()):
            for worker in SLOTS:
                self.heartbeat(worker, accepting=True)
        self.producer_lives(producer)
        self.route(trajectory, producer)
        call, holder = self.call(trajectory, number), self.holder(trajectory, 0)
        self.submit(call, holder, producer)
        if then == "start":
            self.start(call, holder, "a")
        elif then == "give up":
            self.end_by_producer(call, leave_running=False)

    @precondition(lambda self: any(lease.state in LIVE for lease in self.model.leases.values()))
    @rule(which=picks)
    def fail_over(self, which: int) -> None:
        """A worker dies: its calls are recovered and carried anew, and then it speaks up once more."""
        live = sorted(trajectory for trajectory, lease in self.model.leases.items() if lease.state in LIVE)
        trajectory = live[which % len(live)]
        lease = self.model.leases[trajectory]
        before = self.holder(trajectory, 0)
        self.lapse(lease.worker)
        self.recover(lease.worker, stale=False, if_lapsed=True)
        self.carry(trajectory, which % 2, "p1", then="start" if which > 2 else "")
        call = self.call(trajectory, which % 2)
        self.start(call, before, "b")
        result = ended(call, Status.OK, executed="yes", output="from the dead")
        (found,) = self.do(self.state.finish(before.boot, [Finished(result, before.epoch)]))
        self.note("finish", found, self.model.finish(call.call_id, trajectory, before, _ending(result)))

    def boot(self, worker: str) -> str:
        """Of the process that runs under that name now."""
        return f"{worker}-boot-{self.boots[worker]}"

    # -- what must hold after each step

    @invariant()
    def replies_are_as_the_model_says(self) -> None:
        """And a result is delivered once to a living producer, and never two different ones to anybody."""
        for producer in PRODUCERS:
            key = self.state.key("replies", producer)
            entries: Any = self.redis.xrange(key)
            self.redis.xtrim(key, maxlen=0)
            real = []
            for _, entry in entries:
                ending = _ending(ToolResult.model_validate_json(entry["body"])) if entry["kind"] == "result" else None
                real.append((entry["kind"], entry["id"], ending))
                self.seen["stream", entry["kind"]] += 1
                if ending:
                    self.delivered[producer, entry["id"]].append(ending)
            assert sorted(real, key=str) == sorted(self.model.sent.pop(producer, []), key=str)
        endings: dict[str, set[Ending]] = defaultdict(set)
        for (producer, ident), found in self.delivered.items():
            assert len(found) <= 1 + self.redelivered[producer, ident], f"{ident} came {len(found)} times"
            endings[ident] |= set(found)
        for ident, different in endings.items():
            assert len(different) == 1, f"{ident} ended in {different}"

    @invariant()
    def a_call_starts_at_most_once(self) -> None:
        for ident, attempts in self.went.items():
            assert len(attempts) <= 1, f"{ident} was started by {attempts}"

    @invariant()
    def leases_are_as_the_model_says(self) -> None:
        """And no trajectory has two holders, no worker more than its slots, and no waiter a slot."""
        holding = {name: self.redis.smembers(self.state.key("leases", name)) for name in SLOTS}
        room: Any = self.redis.zrange(self.state.key("room", "default"), 0, -1)
        assert set(room) == set(self.model.room)
        for name, held in holding.items():
            assert held == self.model.held.get(name, set())
            assert len(held) <= SLOTS[name], "slots used exceed slots"
        for trajectory in TRAJECTORIES:
            fields: Any = self.redis.hgetall(self.state.key("lease", trajectory))
            self._compare_lease(trajectory, fields)
            live = fields.get("state") in LIVE
            owners = [name for name, held in holding.items() if trajectory in held]
            assert owners == ([fields["worker"]] if live else []), f"{trajectory} is held by {owners}"
            assert not (live and trajectory in room), f"{trajectory} waits though it has a slot"
            if live:
                before, boot = self.epochs.get(trajectory, (0, ""))
                epoch = int(fields["epoch"])
                assert epoch > before or (epoch, fields["boot"]) == (before, boot), "a new holder under an old epoch"
                self.epochs[trajectory] = (epoch, fields["boot"])

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

    @invariant()
    def every_call_is_in_one_state_of_the_ledger(self) -> None:
        """Open ones are in the index of their trajectory, in order; ended ones are not, and hold a result instead."""
        for trajectory in TRAJECTORIES:
            index: Any = self.redis.zrange(self.state.key("calls", trajectory), 0, -1)
            assert index == self.model.entered.get(trajectory, [])
            for number in (0, 1):
                ident = self.call(trajectory, number).call_id
                fields: Any = self.redis.hgetall(self.state.key("call", ident))
                call = self.model.calls.get(ident)
                assert bool(fields) == (call is not None)
                if call is None:
                    continue
                assert fields["state"] == call.state
                is_open = call.state in ("queued", "started")
                assert (ident in index, "body" in fields, "result" in fields) == (is_open, is_open, not is_open)
                if is_open:
                    assert (fields["producer"], fields["boot"]) == (call.producer, call.holder.boot)
                else:
                    assert _ending(ToolResult.model_validate_json(fields["result"])) == call.ending

    # -- the end

    def teardown(self) -> None:
        """When all workers are gone and all trajectories closed, every call has ended and nothing is held."""
        try:
            if self.model.producers or self.model.workers:
                for worker in SLOTS:
                    self.lapse(worker)
                    self.recover(worker, stale=False, if_lapsed=True)
                for trajectory in TRAJECTORIES:
                    self.close(trajectory, really=True)
                self.every_call_is_in_one_state_of_the_ledger()
                self.replies_are_as_the_model_says()
                assert all(call.state == "done" for call in self.model.calls.values())
                for name in ("calls", "leases", "room", "waiter"):
                    assert not list(self.redis.scan_iter(f"*:{name}*")), f"{name} is not empty"
        finally:
            self.do(self.client.aclose())
            self.redis.close()
            self.loop.close()


def _ending(result: ToolResult) -> Ending:
    return str(result.status), result.executed, result.output


@pytest.mark.timeout(600)  # a failure is first made small, which takes a while
def test_the_scripts_do_what_the_model_does_whatever_the_order(redis_url: str) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    run_state_machine_as_test(
        lambda: FleetMachine(redis_url, seen),  # type: ignore[arg-type]  # it takes any factory
        settings=settings(
            max_examples=160,
            stateful_step_count=40,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )
    never = EXPECTED - set(seen)
    assert len(never) <= 4, f"too few interleavings: never saw {never}"
