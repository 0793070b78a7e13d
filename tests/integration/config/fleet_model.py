"""The rules of the scripts once more, in plain Python without Redis: what `test_model` compares the real ones with.

Everything is a dict or a list that one can look at. Methods are named as the scripts are and give the same verdicts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from toolfleet.config.state import Holder

#: What tells two results apart: status, executed, output.
Ending = tuple[str, str, str]
#: What a producer reads: kind, id, and the ending when it is a result.
Entry = tuple[str, str, Ending | None]

LIVE = ("assigned", "active", "closing")


@dataclass
class Worker:
    """A worker whose hash is in Redis."""

    boot: str
    slots: int
    accepting: bool
    alive: bool = True


@dataclass
class Lease:
    """A lease, or what is left of one."""

    state: str
    worker: str = ""
    boot: str = ""
    epoch: int = 0
    producer: str = ""
    lost: str = ""
    used: bool = False
    generation: int = 1


@dataclass
class Call:
    """A call in the ledger."""

    trajectory: str
    producer: str
    holder: Holder
    state: str = "queued"
    attempt: str = ""
    ending: Ending | None = None


@dataclass
class Waiter:
    """A trajectory in the waiting room."""

    producer: str
    lost: str
    since: float
    expired: bool


@dataclass
class Model:
    """The whole fleet."""

    workers: dict[str, Worker] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    held: dict[str, set[str]] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    entered: dict[str, list[str]] = field(default_factory=dict)
    """Trajectory -> its open calls, in order of entry."""
    room: dict[str, Waiter] = field(default_factory=dict)
    producers: set[str] = field(default_factory=set)
    sent: dict[str, list[Entry]] = field(default_factory=dict)
    """Producer -> what was put on its reply stream since the machine looked."""

    # -- placement

    def route(self, trajectory: str, producer: str, placed_on: str) -> str:
        """``placed_on`` is the real choice among the workers that are equally good; it must be one of them."""
        lease = self.leases.get(trajectory)
        lost = ""
        if lease and lease.state in ("closed", "closing"):
            return "closed"
        if lease and lease.state == "lost":
            lost = lease.lost
        elif lease:
            if self.alive(lease.worker, lease.boot):
                lease.producer = producer
                return "held"
            lost = self.lose(trajectory, f"worker {lease.worker} died")
        if trajectory in self.room:
            self.room[trajectory].producer = producer
            return "waiting"
        best = self.best_workers() if not self.room else []
        if best:
            assert placed_on in best, f"{placed_on} was chosen, though {best} have more room"
            self.assign(trajectory, placed_on, producer, lost)
            return "assigned"
        if not any(worker.alive for worker in self.workers.values()):
            return "unserved"
        self.room[trajectory] = Waiter(producer, lost, 0.0, expired=False)
        return "waiting"

    def leave(self, trajectory: str) -> Holder | None:
        self.room.pop(trajectory, None)
        lease = self.leases.get(trajectory)
        if lease and lease.state in ("assigned", "active"):
            return Holder(lease.worker, lease.boot, lease.epoch)
        return None

    def close(self, trajectory: str) -> Holder | None:
        self.room.pop(trajectory, None)
        lease = self.leases.get(trajectory)
        if lease is None:
            self.leases[trajectory] = Lease("closed")
        elif lease.state == "lost":
            self.entomb(trajectory)
        elif lease.state != "closed":
            lease.state = "closing"
            return Holder(lease.worker, lease.boot, lease.epoch)
        return None

    def claim(self, trajectory: str, holder: Holder) -> str | None:
        """The cause of a loss to be told; None when the lease is held elsewhere."""
        if not self.holds(trajectory, holder):
            return None
        lease = self.leases[trajectory]
        if lease.state == "assigned":
            lease.state = "active"
        return lease.lost

    def renew_workspace(self, trajectory: str, holder: Holder) -> int:
        if not self.holds(trajectory, holder):
            return 0
        lease = self.leases[trajectory]
        lease.generation += lease.used
        lease.used = False
        return lease.generation

    def release(self, trajectory: str, holder: Holder) -> bool:
        mine = self.holds(trajectory, holder)
        if mine:
            self.entomb(trajectory)
        self.seat(holder.worker)
        return mine

    def heartbeat(
        self, name: str, boot: str, slots: int, accepting: bool, believed: Iterable[tuple[str, int]]
    ) -> tuple[set[str], set[tuple[str, int]], set[str]]:
        """Lost, unknown and orphaned."""
        self.workers[name] = Worker(boot, slots, accepting)
        lost, orphaned, known = set(), set(), set()
        for trajectory, epoch in believed:
            if not self.holds(trajectory, Holder(name, boot, epoch)):
                lost.add(trajectory)
                continue
            known.add(trajectory)
            if self.leases[trajectory].producer not in self.producers:
                orphaned.add(trajectory)
        unknown = set()
        for trajectory in self.held.setdefault(name, set()) - known:
            lease = self.leases[trajectory]
            if lease.boot == boot:
                unknown.add((trajectory, lease.epoch))
            else:
                self.lose(trajectory, f"worker {name} restarted")
        self.seat(name)
        return lost, unknown, orphaned

    def recover(self, name: str, boot: str, cause: str, if_lapsed: bool) -> None:
        worker = self.workers.get(name)
        if worker and (worker.boot != boot or (if_lapsed and worker.alive)):
            return
        for trajectory in list(self.held.get(name, ())):
            self.lose(trajectory, cause)
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

    def start(self, ident: str, trajectory: str, holder: Holder, attempt: str) -> str:
        call = self.calls.get(ident)
        if call is None:
            return "missing"
        if call.state == "started" and call.attempt == attempt:
            return "go"
        if call.state != "queued":
            return "duplicate"
        if not self.holds(trajectory, holder):
            return "stale"
        call.state, call.attempt, call.holder = "started", attempt, holder
        self.leases[trajectory].used = True
        return "go"

    def finish(self, ident: str, trajectory: str, holder: Holder, ending: Ending) -> str:
        call = self.calls.get(ident)
        if call is None:
            return "late"
        if call.state == "done":
            return "done" if call.ending == ending else "late"
        if not self.holds(trajectory, holder):
            return "stale"
        self.end(ident, ending)
        if ending[0] == "lost":
            self.leases[trajectory].lost = ""
        self.reply(call.producer, "result", ident, ending)
        return "done"

    def give_up(self, ident: str, if_queued: Ending, if_started: Ending | None) -> str:
        call = self.calls.get(ident)
        if call is None:
            return "missing"
        if call.state == "done":
            return "ended" if call.ending == if_queued else "started" if call.ending == if_started else "done"
        if call.state == "queued":
            self.end(ident, if_queued)
            return "ended"
        if if_started is not None:
            self.end(ident, if_started)
        return "started"

    # -- the parts

    def alive(self, name: str, boot: str) -> bool:
        worker = self.workers.get(name)
        return worker is not None and worker.alive and worker.boot == boot

    def holds(self, trajectory: str, holder: Holder) -> bool:
        lease = self.leases.get(trajectory)
        if lease is None or lease.state not in LIVE:
            return False
        return (lease.boot, lease.epoch) == (holder.boot, holder.epoch)

    def free(self, name: str) -> int:
        return self.workers[name].slots - len(self.held.get(name, ()))

    def best_workers(self) -> list[str]:
        free = {name: self.free(name) for name, w in self.workers.items() if w.alive and w.accepting}
        most = max(free.values(), default=0)
        return [name for name, slots in free.items() if slots == most > 0]

    def assign(self, trajectory: str, name: str, producer: str, lost: str) -> Holder:
        before = self.leases.get(trajectory, Lease(""))
        boot, epoch = self.workers[name].boot, before.epoch + 1
        self.leases[trajectory] = Lease(
            "assigned", name, boot, epoch, producer, lost, used=False, generation=before.generation
        )
        self.held.setdefault(name, set()).add(trajectory)
        return Holder(name, boot, epoch)

    def seat(self, name: str) -> None:
        worker = self.workers.get(name)
        if worker is None or not worker.accepting:
            return
        for trajectory in sorted(self.room, key=lambda t: (self.room[t].since, t)):
            if self.free(name) <= 0:
                return
            waiter = self.room.pop(trajectory)
            if not waiter.expired and waiter.producer in self.producers:
                self.assign(trajectory, name, waiter.producer, waiter.lost)
                self.reply(waiter.producer, "placed", trajectory, None)

    def lose(self, trajectory: str, cause: str) -> str:
        lease = self.leases[trajectory]
        if lease.state == "closing":
            self.entomb(trajectory)
            return ""
        told = False
        for ident in list(self.entered.get(trajectory, ())):
            call = self.calls[ident]
            if call.state == "started":
                self.end(ident, ("lost", "unknown", ""))
                told |= self.reply(call.producer, "result", ident, call.ending)
            else:
                call.holder = call.holder._replace(boot="")
                self.reply(call.producer, "moved", ident, None)
        if lease.used:
            lease.lost = "" if told else cause
            lease.generation += 1
        lease.state, lease.boot = "lost", ""
        self.held[lease.worker].discard(trajectory)
        return lease.lost

    def entomb(self, trajectory: str) -> None:
        lease = self.leases[trajectory]
        for ident in list(self.entered.get(trajectory, ())):
            call = self.calls[ident]
            self.end(ident, ("lost", "unknown" if call.state == "started" else "no", ""))
            self.reply(call.producer, "result", ident, call.ending)
        lease.state, lease.boot, lease.lost, lease.used = "closed", "", "", False
        self.held.get(lease.worker, set()).discard(trajectory)

    def end(self, ident: str, ending: Ending) -> None:
        call = self.calls[ident]
        call.state, call.ending = "done", ending
        self.entered[call.trajectory].remove(ident)

    def reply(self, producer: str, kind: str, ident: str, ending: Ending | None) -> bool:
        if producer in self.producers:
            self.sent.setdefault(producer, []).append((kind, ident, ending))
        return producer in self.producers
