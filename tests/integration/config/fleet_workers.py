"""What workers do and what befalls them, also those that are no holders any more."""

import json

from hypothesis import strategies as st
from hypothesis.stateful import rule
from integration.config import rig as bench
from integration.config.fleet_bench import OUTSIDE, PLACES, SLOTS, Belief, FleetBench, ending
from integration.config.fleet_strategies import ago, picks, trajectories, workers
from integration.config.model_parts import Lease, Worker

from toolfleet.config.answers import Finished, Holder
from toolfleet.config.contract import Status, ToolCall, ended


class WorkerSteps(FleetBench):
    """Each a step of its own, and a part of the longer ones in `fleet_machine`."""

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


def _json(lease: Lease) -> str:
    return json.dumps(bench.sandbox(lease.sandbox, lease.place)) if lease.sandbox else ""
