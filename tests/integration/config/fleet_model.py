"""The rules of the scripts once more, in plain Python without Redis: what `test_model` compares the real ones with.

Everything is a dict or a list that one can look at. Methods are named as the scripts are and give the same verdicts.
"""

from collections.abc import Iterable
from dataclasses import replace

from integration.config.model_parts import LIVE, Beat, Call, Chosen, Ending, Lease, Parts, Waiter, Worker

from toolfleet.config.answers import Holder


class Model(Parts):
    """The whole fleet, script by script."""

    # -- placement

    def route(
        self, trajectory: str, producer: str, chosen: Chosen, known: int = 0, forgotten: str = "", origin: str = "",
        place: str = "",
    ) -> str:  # fmt: skip
        lease = self.leases.get(trajectory)
        if lease and lease.state in ("closed", "closing"):
            return "closed"
        if lease and lease.state != "lost" and self.goes_on(trajectory, chosen):
            lease.producer = producer
            return "held"
        if not lease and known:
            if not forgotten:
                return "forgotten"
            cause = "Redis lost its state" if forgotten == "tell" else ""
            self.leases[trajectory] = Lease("lost", "", "", known, producer, cause, generation=2)
        if trajectory in self.room and place and not self.served(place):
            del self.room[trajectory]
            return "unserved"
        if trajectory in self.room:
            waiter = self.room[trajectory]
            waiter.producer, waiter.origin, waiter.place = producer, origin, place
            return "waiting"
        best = self.best_workers(place) if place not in [waiter.place for waiter in self.room.values()] else []
        if best:
            assert chosen(trajectory) in best, f"{chosen(trajectory)} was chosen, though {best} have more room"
            self.assign(trajectory, chosen(trajectory), producer, origin)
            return "assigned"
        if not self.served(place):
            return "unserved"
        self.room[trajectory] = Waiter(producer, 0.0, expired=False, origin=origin, place=place)
        return "waiting"

    def leave(self, trajectory: str) -> Holder | None:
        self.room.pop(trajectory, None)
        lease = self.leases.get(trajectory)
        if lease and lease.state in ("assigned", "active"):
            return Holder(lease.worker, lease.boot, lease.epoch)
        return None

    def close(self, trajectory: str, origin: str = "") -> Holder | None:
        self.room.pop(trajectory, None)
        lease = self.leases.get(trajectory)
        if lease is None:
            self.let_go(origin, trajectory)
            self.leases[trajectory] = Lease("closed")
        elif lease.state == "lost":
            self.entomb(trajectory)
        elif lease.state != "closed":
            lease.state = "closing"
            return Holder(lease.worker, lease.boot, lease.epoch)
        return None

    def claim(self, trajectory: str, holder: Holder) -> tuple[Lease, list[str]] | None:
        """The lease and what an earlier holder started; None when it is held elsewhere."""
        if not self.holds(trajectory, holder):
            return None
        lease = self.leases[trajectory]
        if lease.state == "assigned":
            lease.state = "active"
        return lease, [ident for ident in self.entered.get(trajectory, ()) if self.calls[ident].state == "started"]

    def furnish(self, trajectory: str, holder: Holder, sandbox: str, place: str) -> int:
        if not self.holds(trajectory, holder):
            return 0
        lease = self.leases[trajectory]
        if lease.used and lease.sandbox != sandbox:
            lease.used = False
            lease.generation += 1
        if lease.origin:
            self.let_go(lease.origin, trajectory)
            lease.used, lease.origin = True, ""
        lease.sandbox, lease.place = sandbox, place
        return lease.generation

    def forsake(self, trajectory: str, holder: Holder, cause: str) -> int:
        if not self.holds(trajectory, holder):
            return 0
        lease = self.leases[trajectory]
        if lease.origin:
            self.let_go(lease.origin, trajectory)
            lease.origin, lease.lost = "", cause
            lease.generation += 1
        return lease.generation

    def begin_save(self, ident: str, trajectory: str, holder: Holder, name: str) -> bool:
        call = self.calls.get(ident)
        if call is None or call.state != "started" or not self.holds(trajectory, holder):
            return False
        if call.snapshot != name:
            self.disown(call)
        call.snapshot = name
        self.snapshots[name] = set()
        self.due.discard(name)
        return True

    def end_save(self, ident: str, trajectory: str, holder: Holder, name: str, child: str) -> bool:
        call = self.calls.get(ident)
        if name not in self.snapshots:
            return False
        wanted = call is not None and (call.state, call.snapshot) == ("started", name)
        if not wanted or not self.holds(trajectory, holder):
            self.due.add(name)
            return False
        self.snapshots[name].add(child)
        self.due.discard(name)
        return True

    def renounce(self, trajectory: str, holder: Holder, sandbox: str, cause: str) -> tuple[bool, int]:
        """Whether to destroy it, and the generation of the workspace after it."""
        lease = self.leases.get(trajectory)
        if lease is None:
            return False, 0
        if lease.sandbox == sandbox:
            if not self.holds(trajectory, holder):
                return False, lease.generation
            lease.sandbox = lease.place = ""
            if lease.used:
                lease.used, lease.lost = False, cause
                lease.generation += 1
        return True, lease.generation

    def hand_over(self, trajectory: str, holder: Holder, chosen: Chosen) -> bool:
        if not self.holds(trajectory, holder):
            return True
        best = self.heirs(self.leases[trajectory].place)
        heir = chosen(trajectory)
        assert not best or heir in best
        if not best or heir == holder.worker:
            return False
        self.inherit(trajectory, heir)
        return True

    def announce(self, trajectory: str, holder: Holder, told: Lease) -> bool:
        """``told`` is the lease as its holder knows it."""
        if self.holds(trajectory, holder):
            return True
        lease = self.leases.get(trajectory)
        if lease:
            if lease.epoch >= holder.epoch or not lease.sandbox or lease.sandbox != told.sandbox:
                if lease.worker != holder.worker:
                    self.held.get(holder.worker, set()).discard(trajectory)
                return False
            self.held[lease.worker].discard(trajectory)
        waiter = self.room.pop(trajectory, None)
        producer = waiter.producer if waiter else told.producer
        state = "closing" if lease and lease.state == "closing" else "active"
        self.leases[trajectory] = replace(
            told, state=state, worker=holder.worker, boot=holder.boot, epoch=holder.epoch, producer=producer
        )
        self.held.setdefault(holder.worker, set()).add(trajectory)
        if lease:
            self.follow(trajectory)
        if waiter:
            self.reply(producer, "placed", trajectory, None)
        return True

    def release(self, trajectory: str, holder: Holder) -> bool:
        mine = self.holds(trajectory, holder)
        if mine:
            self.entomb(trajectory)
        self.seat(holder.worker)
        return mine

    def heartbeat(self, name: str, worker: Worker, believed: Iterable[tuple[str, int]], chosen: Chosen) -> Beat:
        self.workers[name] = worker
        beat, known, held = Beat(), set(), self.held.setdefault(name, set())
        for trajectory, epoch in believed:
            lease = self.leases.get(trajectory)
            if lease and self.holds(trajectory, Holder(name, worker.boot, epoch)):
                known.add(trajectory)
                if lease.producer not in self.producers:
                    beat.orphaned.add(trajectory)
                if lease.state == "closing" and not self.entered.get(trajectory):
                    beat.closing.add(trajectory)
            elif (lease.epoch if lease else 0) < epoch:
                known.add(trajectory)
                beat.forgotten.add(trajectory)
                if lease is None:
                    held.add(trajectory)
            else:
                beat.lost.add(trajectory)
        gone = []
        for trajectory in held - known:
            lease = self.leases.get(trajectory)
            if lease is None or lease.worker != name or lease.state not in LIVE:
                held.discard(trajectory)
            elif lease.boot == worker.boot:
                beat.unknown.add((trajectory, lease.epoch))
            else:
                gone.append(trajectory)
        self.lose_all(gone, f"worker {name} restarted", chosen)
        self.seat(name)
        return beat

    def recover(self, name: str, boot: str, cause: str, grace: bool, chosen: Chosen) -> None:
        worker = self.workers.get(name)
        if worker and (worker.boot != boot or (grace and worker.alive)):
            return
        if worker:
            worker.accepting = False
        mine = [t for t in self.held.get(name, ()) if t in self.leases and self.leases[t].worker == name]
        self.lose_all([t for t in mine if self.leases[t].state in LIVE], cause, chosen)
        self.held.pop(name, None)
        self.workers.pop(name, None)

    # -- ledger

    def submit(self, ident: str, trajectory: str, holder: Holder, producer: str) -> str:
        call, lease = self.calls.get(ident), self.leases.get(trajectory)
        holds = lease is not None and (lease.boot, lease.epoch) == (holder.boot, holder.epoch) and lease.boot != ""
        if call and call.state == "done":
            self.reply(producer, "result", ident, call.ending)
            return "done"
        if call and holds and (call.state == "started" or call.holder == holder):
            call.producer = producer
            return "again"
        if lease and lease.state in ("closing", "closed"):
            return "closed"
        if not holds:
            return "moved"
        self.calls[ident] = Call(trajectory, producer, holder)
        if ident not in self.entered.setdefault(trajectory, []):
            self.entered[trajectory].append(ident)
        return "queued"

    def start(self, ident: str, trajectory: str, holder: Holder, attempt: str, outside: bool = False) -> str:
        call = self.calls.get(ident)
        if call is None:
            return "missing"
        if call.state == "started" and call.attempt == attempt and self.holds(trajectory, holder):
            return "go"
        if call.state != "queued":
            return "duplicate"
        if not self.holds(trajectory, holder):
            return "stale"
        call.state, call.attempt, call.holder, call.outside = "started", attempt, holder, outside
        self.leases[trajectory].used |= not outside
        return "go"

    def finish(self, ident: str, trajectory: str, holder: Holder, ending: Ending) -> str:
        call = self.calls.get(ident)
        if call is None:
            return "late"
        if call.state == "done":
            return "done" if call.ending == ending else "late"
        if not self.holds(trajectory, holder):
            return "stale"
        self.end(ident, ending, keep=True)
        if ending[0] == "lost":
            self.leases[trajectory].lost = ""
        told = self.reply(call.producer, "result", ident, ending)
        if call.unwanted or not told or ending[0] != "ok":
            self.disown(call)
        return "done"

    def give_up(self, ident: str, if_queued: Ending, if_started: Ending | None) -> str:
        call = self.calls.get(ident)
        if call is None:
            return "missing"
        if call.state == "done":
            if not call.given_up:
                return "done"
            return "ended" if call.ending == if_queued else "started" if call.ending == if_started else "done"
        call.given_up = call.state == "queued" or if_started is not None
        if call.state == "queued":
            self.end(ident, if_queued)
            return "ended"
        if if_started is not None:
            self.end(ident, if_started)
        else:
            call.unwanted = True
        return "started"
