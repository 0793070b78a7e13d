"""Random interleavings of producers, workers, deaths and losses of Redis."""

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from integration.config import rig as bench
from integration.config.fleet_bench import (
    NUMBERS,
    OUTSIDE,
    PLACES,
    PRODUCERS,
    SLOTS,
    TRAJECTORIES,
    Belief,
    FleetBench,
    ending,
)
from integration.config.model_parts import Lease, Worker

from toolfleet.config.answers import Finished, Holder
from toolfleet.config.carriage import Parcel
from toolfleet.config.contract import Beginning, Status, ToolCall, ended
from toolfleet.config.snapshots import Origin, Saved

trajectories = st.sampled_from(TRAJECTORIES)
workers = st.sampled_from(sorted(SLOTS))
producers = st.sampled_from(PRODUCERS)
numbers = st.sampled_from([0, 1])
#: How many holders or sandboxes ago: mostly the present one, sometimes one that should know better.
ago = st.sampled_from([0, 0, 0, 1])
#: Which call: see `FleetMachine.pick`.
picks = st.integers(0, 5)
seldom = st.sampled_from([False, False, False, True])


class FleetMachine(FleetBench):
    """Every step that producers, workers and accidents can take; see `FleetBench` for what is checked."""

    @initialize()
    def begin(self) -> None:
        for producer in PRODUCERS:
            self.producer_lives(producer)
        for worker in SLOTS:
            self.heartbeat(worker, accepting=True)

    # -- producers

    @rule(producer=producers)
    def producer_lives(self, producer: str) -> None:
        self.do(self.state.producer_alive(producer, 300.0))
        self.model.producers.add(producer)

    @rule(producer=producers, really=seldom)
    def producer_dies(self, producer: str, really: bool) -> None:
        if really:
            self.do(self.state.producer_gone(producer))
            self.model.producers.discard(producer)

    @rule(
        trajectory=trajectories, producer=producers, knows=st.booleans(),
        anew=st.sampled_from(["", "tell", "told"]), anywhere=st.booleans(),
    )  # fmt: skip
    def route(
        self, trajectory: str, producer: str, knows: bool = True, anew: Any = "tell", anywhere: bool = False
    ) -> None:
        known = max((holder.epoch for holder in self.holders[trajectory]), default=0) if knows else 0
        is_new = trajectory not in self.model.leases
        origin = self.origins.get(trajectory, Origin("", ""))
        origin = origin._replace(place="") if anywhere else origin
        asked = {"known_epoch": known, "forgotten": anew, "origin": origin}
        found = self.do(
            self.state.route(trajectory, producer, "default", sweep="s", beginning=Beginning(), wait=300.0, **asked)
        )
        expected = self.model.route(trajectory, producer, self.chosen, known, anew, *origin)
        self.note("route", found.verdict, expected)
        if found.holder:
            lease = self.model.leases[trajectory]
            assert found.holder == Holder(lease.worker, lease.boot, lease.epoch)
            assert not is_new or found.holder.epoch > known, "the epoch fell for one who knew it"
            self.learn(trajectory, found.holder)
        elif found.verdict == "waiting":
            scores: Any = [self.redis.zscore(room, trajectory) for room in self.rooms()]
            (self.model.room[trajectory].since,) = [float(score) for score in scores if score is not None]
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

    @rule(trajectory=trajectories, really=seldom)
    def close(self, trajectory: str, really: bool) -> None:
        if really:
            origin = self.origins.get(trajectory, Origin("", ""))
            assert self.do(self.state.close(trajectory, origin)) == self.model.close(trajectory, origin.snapshot)

    @rule(which=picks, back=ago, producer=producers)
    def submit_again(self, which: int, back: int, producer: str) -> None:
        call, trajectory = self.pick(which)
        self.submit(call, self.holder(trajectory, back), producer)

    def submit(self, call: ToolCall, holder: Holder, producer: str) -> None:
        (found,) = self.do(self.state.submit(producer, [Parcel(holder, call, call.model_dump_json())]))
        self.note("submit", found, self.model.submit(call.call_id, call.trajectory_id, holder, producer))
        self.redelivered[producer, call.call_id] += found == "done"

    @rule(which=picks, leave_running=st.booleans())
    def give_up(self, which: int, leave_running: bool) -> None:
        self.end_by_producer(self.pick(which)[0], leave_running)

    def end_by_producer(self, call: ToolCall, leave_running: bool) -> None:
        never = ended(call, Status.FAILED, executed="no")
        lost = None if leave_running else ended(call, Status.UNKNOWN, executed="unknown")
        found, _, result = self.do(self.state.give_up(call, never, lost))
        expected = self.model.give_up(call.call_id, ending(never), ending(lost) if lost else None)
        self.note("give_up", found, expected)
        if result is not None:
            assert ending(result) == self.model.calls[call.call_id].ending

    # -- workers

    @rule(worker=workers, accepting=st.sampled_from([True, True, True, False]))
    def heartbeat(self, worker: str, accepting: bool) -> None:
        """Of the process that runs under that name, dead to the fleet or not."""
        believed = sorted((t, belief.epoch) for t, belief in self.believed[worker].items())
        facts: dict[str, str | int] = {"slots": SLOTS[worker], "accepting": int(accepting), "serves:default": 1}
        facts[f"reaches:{PLACES[worker]}"] = 1
        beat = self.do(self.state.heartbeat(worker, self.boot(worker), facts, believed))
        now = Worker(self.boot(worker), SLOTS[worker], accepting, PLACES[worker])
        expected = self.model.heartbeat(worker, now, believed, self.chosen)
        for name in ("lost", "unknown", "orphaned", "closing", "forgotten"):
            assert set(getattr(beat, name)) == getattr(expected, name), name
            self.seen["heartbeat", name] += bool(getattr(beat, name))
        for trajectory in beat.lost:
            del self.believed[worker][trajectory]
        for trajectory, epoch in beat.unknown:
            self.believed[worker][trajectory] = Belief(epoch)
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
        while not self.do(self.state.recover(worker, boot, bench.CAUSE, grace=0.0 if if_lapsed else None)):
            pass
        self.model.recover(worker, boot, bench.CAUSE, if_lapsed, self.chosen)

    @rule(trajectory=trajectories, back=ago)
    def hand_over(self, trajectory: str, back: int) -> None:
        holder = self.holder(trajectory, back)
        found = self.do(self.state.hand_over(trajectory, holder))
        self.note("hand_over", str(found), str(self.model.hand_over(trajectory, holder, self.chosen)))

    @rule(worker=workers)
    def drain(self, worker: str) -> None:
        """It takes no new trajectories, and sees those off that it has."""
        self.heartbeat(worker, accepting=False)
        for trajectory, belief in self.believed[worker].items():
            self.learn(trajectory, Holder(worker, self.boot(worker), belief.epoch))
            self.hand_over(trajectory, 0)

    @rule(trajectory=trajectories, back=ago)
    def claim(self, trajectory: str, back: int) -> None:
        holder = self.holder(trajectory, back)
        found = self.do(self.state.claim(trajectory, holder.boot, holder.epoch))
        expected = self.model.claim(trajectory, holder)
        assert (found is None) == (expected is None)
        if found and expected:
            lease, started = expected
            assert (found.lost, found.used, found.generation) == (lease.lost, lease.used, lease.generation)
            assert (found.sandbox or {}).get("id", "") == lease.sandbox
            assert found.origin == lease.origin
            assert sorted(found.started) == sorted(started)
            self.believed[holder.worker][trajectory] = Belief(holder.epoch, Lease(**vars(lease)))
            self.seen["claim", "started"] += bool(started)

    @rule(trajectory=trajectories, back=ago)
    def furnish(self, trajectory: str, back: int) -> None:
        holder = self.holder(trajectory, back)
        name = f"{trajectory}.s{len(self.sandboxes[trajectory])}"
        sandbox = bench.sandbox(name, PLACES[holder.worker])
        found = self.do(self.state.furnish(trajectory, holder.boot, holder.epoch, sandbox))
        assert found == self.model.furnish(trajectory, holder, name, PLACES[holder.worker])
        self.sandboxes[trajectory].append(name)
        if (lease := self.belief(holder, trajectory)) and found:
            lease.sandbox, lease.place, lease.generation = name, PLACES[holder.worker], found
            lease.used, lease.origin = lease.used or bool(lease.origin), ""

    @rule(trajectory=trajectories, back=ago)
    def forsake(self, trajectory: str, back: int) -> None:
        """The snapshot that it was to start from is gone, or never was."""
        holder = self.holder(trajectory, back)
        found = self.do(self.state.forsake(trajectory, holder.boot, holder.epoch, "gone"))
        before = self.model.leases.get(trajectory)
        self.seen["forsake", "told" if found and before and before.origin else "nothing"] += 1
        assert found == self.model.forsake(trajectory, holder, "gone")
        if (lease := self.belief(holder, trajectory)) and found and lease.origin:
            lease.origin, lease.lost, lease.generation = "", "gone", found

    @rule(
        trajectory=trajectories, child=trajectories, back=ago,
        how=st.sampled_from(["whole", "whole", "given up", "cancelled", "begun", "handed over"]),
    )  # fmt: skip
    def fork(self, trajectory: str, child: str, back: int, how: str) -> None:
        """A trajectory is saved, for one to start from that nobody has heard of yet."""
        known = {*self.model.leases, *self.model.room, *self.origins, trajectory}
        if child in known:
            return
        self.carry(trajectory, 0, "p1", then="start")
        holder = self.holder(trajectory, back)
        call = self.call(trajectory, NUMBERS[-1]).model_copy(update={"children": (child,)})
        self.submit(call, self.holder(trajectory, 0), "p1")
        self.start(call, holder, "a")
        name = f"{call.call_id}.{holder.epoch}"
        saved = Saved("bubblewrap", "", PLACES[holder.worker], "spec")
        began = self.do(self.state.begin_save(call, holder.boot, holder.epoch, name, saved))
        assert began == self.model.begin_save(call.call_id, trajectory, holder, name)
        if how in ("given up", "cancelled"):
            self.end_by_producer(call, leave_running=how == "cancelled")
        elif how == "handed over":
            self.lapse(holder.worker)
            self.recover(holder.worker, stale=False, if_lapsed=True)
        elif how == "begun":
            return
        ended = self.do(self.state.end_save(call, holder.boot, holder.epoch, name, f"{name}-id"))
        assert ended == self.model.end_save(call.call_id, trajectory, holder, name, child)
        self.seen["fork", str(ended)] += 1
        if ended:
            self.origins[child] = Origin(name, PLACES[holder.worker])
            self.finish(call, holder, "saved")
            self.route(child, "p1")

    @rule(trajectory=trajectories, back=ago, which=ago)
    def renounce(self, trajectory: str, back: int, which: int) -> None:
        holder, name = self.holder(trajectory, back), self.sandbox(trajectory, which)
        found = self.do(self.state.renounce(trajectory, holder.boot, holder.epoch, name, "broken"))
        expected = self.model.renounce(trajectory, holder, name, "broken")
        assert tuple(found) == expected
        self.seen["renounce", "destroy" if found.destroy else "leave"] += 1
        if found.destroy:
            self.history.destroyed.add(name)
        if (lease := self.belief(holder, trajectory)) and lease.sandbox == name:
            lease.lost, lease.used = "broken" if lease.used else lease.lost, False
            lease.sandbox, lease.place, lease.generation = "", "", max(lease.generation, found.generation)

    @rule(worker=workers, trajectory=trajectories)
    def announce(self, worker: str, trajectory: str) -> None:
        """Of what it has claimed; a process does so when Redis has forgotten it, and may come late."""
        belief = self.believed[worker].get(trajectory)
        if belief is None or belief.lease is None:
            return
        lease, holder = belief.lease, Holder(worker, self.boot(worker), belief.epoch)
        fields: dict[str, str | int] = {
            "producer": lease.producer, "profile": "default", "sweep": "s", "setup": "{}", "lost": lease.lost,
            "generation": lease.generation, "used": int(lease.used), "sandbox_id": lease.sandbox, "place": lease.place,
            "sandbox": _json(lease), **({"origin": lease.origin} if lease.origin else {}),
        }  # fmt: skip
        found = self.do(self.state.announce(trajectory, holder, fields))
        self.note("announce", str(found), str(self.model.announce(trajectory, holder, lease)))
        if found:
            self.learn(trajectory, holder)
        else:
            del self.believed[worker][trajectory]

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
        outside = call.call_id in OUTSIDE
        ((found, _),) = self.do(self.state.start(holder.boot, [(call, holder.epoch, attempt)], outside=OUTSIDE))
        self.note("start", found, self.model.start(call.call_id, call.trajectory_id, holder, attempt, outside))
        if found == "go":
            self.went[call.call_id].add(attempt)
            if lease := self.belief(holder, call.trajectory_id):
                lease.used |= not outside

    @rule(which=picks, back=ago, output=st.sampled_from("xy"), told=st.booleans())
    def finish_again(self, which: int, back: int, output: str, told: bool) -> None:
        call, trajectory = self.pick(which)
        self.finish(call, self.holder(trajectory, back), output, Status.LOST if told else Status.OK)

    def finish(self, call: ToolCall, holder: Holder, output: str, status: Status = Status.OK) -> None:
        result = ended(call, status, executed="yes", output=output)
        (found,) = self.do(self.state.finish(holder.boot, [Finished(result, holder.epoch)]))
        self.note("finish", found, self.model.finish(call.call_id, call.trajectory_id, holder, ending(result)))
        if found == "done" and status is Status.LOST and (lease := self.belief(holder, call.trajectory_id)):
            lease.lost = ""

    # -- what happens most of the time

    @rule(trajectory=trajectories, number=numbers, producer=producers, then=st.sampled_from(["", "start", "give up"]))
    def carry(self, trajectory: str, number: int, producer: str, then: str) -> None:
        """A producer lives, routes and submits, and a living worker makes a sandbox and starts the call."""
        if not any(worker.alive for worker in self.model.workers.values()):
            for worker in SLOTS:
                self.heartbeat(worker, accepting=True)
        self.producer_lives(producer)
        self.route(trajectory, producer)
        call, holder = self.call(trajectory, number), self.holder(trajectory, 0)
        self.submit(call, holder, producer)
        if then == "start":
            self.claim(trajectory, 0)
            if trajectory in self.model.leases and not self.model.leases[trajectory].sandbox:
                self.furnish(trajectory, 0)
            self.start(call, holder, "a")
        elif then == "give up":
            self.end_by_producer(call, leave_running=False)

    @rule(
        trajectory=trajectories, started=st.booleans(), queued=st.booleans(), closing=seldom,
        how=st.sampled_from(["recover", "route", "restart", "drain", "twice"]), taken_up=st.booleans(),
    )  # fmt: skip
    def fail_over(self, trajectory: str, started: bool, queued: bool, closing: bool, how: str, taken_up: bool) -> None:
        """A worker in the middle of its work goes in one way or another, and then it speaks up once more."""
        self.carry(trajectory, 0, "p1", then="start" if started else "")
        before = self.holder(trajectory, 0)
        if taken_up and not started:
            self.claim(trajectory, 0)
            self.furnish(trajectory, 0)
        if queued:
            self.submit(self.call(trajectory, 1), before, "p1")
        self.close(trajectory, really=closing)
        if how == "drain":
            self.drain(before.worker)
        elif how == "restart":
            self.restart(before.worker)
            self.heartbeat(before.worker, accepting=True)
        else:
            self.lapse(before.worker)
            if how == "route":
                self.route(trajectory, "p1")
            else:
                self.recover(before.worker, stale=False, if_lapsed=True)
        if how == "twice" and (heir := self.chosen(trajectory)):
            self.restart(heir)
            self.heartbeat(heir, accepting=True)
        call = self.call(trajectory, int(queued))
        self.start(call, before, "b")
        self.finish(call, before, "from the dead")
        for worker in SLOTS:
            if self.model.workers.get(worker):
                self.heartbeat(worker, accepting=True)
        if taken_up:
            self.claim(trajectory, 0)

    @rule(trajectory=trajectories, started=st.booleans(), queued=st.booleans(), closing=seldom, later=st.booleans())
    def two_remember(self, trajectory: str, started: bool, queued: bool, closing: bool, later: bool) -> None:
        """Redis forgets a lease that was handed over, and its first holder, which has not heard of that, is quicker."""
        self.carry(trajectory, 0, "p1", then="start")
        first = self.holder(trajectory, 0)
        self.lapse(first.worker)
        self.recover(first.worker, stale=False, if_lapsed=True)
        heir = self.chosen(trajectory)
        if heir in ("", first.worker):
            return
        self.heartbeat(heir, accepting=True)
        self.claim(trajectory, 0)
        if later:
            self.furnish(trajectory, 0)
        self.forget(trajectory)
        self.announce(first.worker, trajectory)
        if queued:
            self.submit(self.call(trajectory, 0), self.holder(trajectory, 0), "p1")
        if started:
            self.submit(self.call(trajectory, 1), self.holder(trajectory, 0), "p1")
            self.start(self.call(trajectory, 1), self.holder(trajectory, 0), "a")
        self.close(trajectory, really=closing)
        self.announce(heir, trajectory)

    @rule(
        really=seldom, producer=producers, announced=st.booleans(), only=st.sampled_from([None, *TRAJECTORIES]),
        asked=trajectories, anew=st.sampled_from(["", "tell", "told"]),
    )  # fmt: skip
    def redis_forgets(
        self, really: bool, producer: str, announced: bool, only: str | None, asked: str, anew: str
    ) -> None:
        """Redis loses everything, or all that it knows of one trajectory; workers come forward, or come too late."""
        if not really:
            return
        self.forget(only)
        self.producer_lives(producer)
        for worker in SLOTS:
            self.heartbeat(worker, accepting=True)
        for worker in SLOTS if announced else ():
            for trajectory in list(self.believed[worker]):
                self.announce(worker, trajectory)
        self.route(asked, producer, knows=True, anew=anew)

    @rule(trajectory=trajectories)
    def crowd(self, trajectory: str) -> None:
        """More trajectories than slots: when one ends, its calls end with it, and its slot goes to one that waits."""
        self.producer_lives("p1")
        for asking in TRAJECTORIES:
            self.route(asking, "p1")
        self.submit(self.call(trajectory, 0), self.holder(trajectory, 0), "p1")
        self.release(trajectory, 0)

    def teardown(self) -> None:
        """When all workers are gone and all trajectories closed, every call has ended and nothing is held."""
        try:
            if self.model.producers or self.model.workers:
                for _ in SLOTS:  # one may inherit from another
                    for worker in SLOTS:
                        self.lapse(worker)
                        self.recover(worker, stale=False, if_lapsed=True)
                for trajectory in TRAJECTORIES:
                    self.close(trajectory, really=True)
                self.every_call_is_in_one_state_of_the_ledger()
                self.replies_are_as_the_model_says()
                assert all(call.state == "done" for call in self.model.calls.values())
                self.snapshots_are_as_the_model_says()
                for name, users in self.model.snapshots.items():
                    # But for one of which Redis has forgotten all else, nobody is left to start from it.
                    wanted = {t for t in users if self.origins.get(t, Origin("", "")).snapshot == name}
                    assert name in self.model.due or not wanted, f"{name} stays for {wanted}"
                for name in ("calls", "leases", "room", "waiter"):
                    assert not list(self.redis.scan_iter(f"*:{name}*")), f"{name} is not empty"
            self.seen.update((table, *row) for table, *row in self.history.made.elements())
        finally:
            self.do(self.client.aclose())
            self.redis.close()
            self.loop.close()


def _json(lease: Lease) -> str:
    return json.dumps(bench.sandbox(lease.sandbox, lease.place)) if lease.sandbox else ""
