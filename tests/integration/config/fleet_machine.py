"""Random interleavings of producers, workers, deaths and losses of Redis."""

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from integration.config.fleet_bench import NUMBERS, PLACES, PRODUCERS, SLOTS, TRAJECTORIES
from integration.config.fleet_producers import ProducerSteps
from integration.config.fleet_strategies import ago, numbers, producers, seldom, trajectories
from integration.config.fleet_workers import WorkerSteps

from toolfleet.config.snapshots import Origin, Saved


class FleetMachine(ProducerSteps, WorkerSteps):
    """Every step that producers, workers and accidents can take, and those that belong together most of the time.

    See `FleetBench` for what is checked.
    """

    @initialize()
    def begin(self) -> None:
        for producer in PRODUCERS:
            self.producer_lives(producer)
        for worker in SLOTS:
            self.heartbeat(worker, accepting=True)

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

    @rule(
        trajectory=trajectories, child=trajectories, back=ago,
        how=st.sampled_from(["whole", "whole", "given up", "cancelled", "begun", "handed over"]),
    )  # fmt: skip
    def fork(self, trajectory: str, child: str, back: int, how: str) -> None:
        """A trajectory is saved, for one to start from that nobody has heard of yet."""
        known = {*self.model.leases, *self.model.room, *self.origins, trajectory}
        if child in known or self.holders[child]:
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
