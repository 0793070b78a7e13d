"""What producers do, at any moment, and whatever became of the workers."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from integration.config.fleet_bench import FleetBench, ending
from integration.config.fleet_strategies import ago, picks, producers, seldom, trajectories

from toolfleet.config.answers import Holder
from toolfleet.config.carriage import Parcel
from toolfleet.config.contract import Beginning, Status, ToolCall, ended
from toolfleet.config.snapshots import Origin


class ProducerSteps(FleetBench):
    """Each a step of its own, and a part of the longer ones in `fleet_machine`."""

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
