"""What the model of the fleet is made of, and what its scripts share: the counterpart of ``_common.lua``."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import permutations

from toolfleet.config.answers import Holder

#: What tells two results apart: status, executed, output.
Ending = tuple[str, str, str]
#: What a producer reads: kind, id, and the ending when it is a result.
Entry = tuple[str, str, Ending | None]

#: The real choice for a trajectory, among the workers that are equally good; it must be one of them.
Chosen = Callable[[str], str]

LIVE = ("assigned", "active", "closing")


@dataclass
class Worker:
    """A worker whose hash is in Redis."""

    boot: str
    slots: int
    accepting: bool
    place: str
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
    sandbox: str = ""
    place: str = ""
    origin: str = ""


@dataclass
class Call:
    """A call in the ledger."""

    trajectory: str
    producer: str
    holder: Holder
    state: str = "queued"
    attempt: str = ""
    ending: Ending | None = None
    outside: bool = False
    snapshot: str = ""
    unwanted: bool = False
    given_up: bool = False
    """Its producer has ended it; others may end one alike, but not in the same words."""


@dataclass
class Waiter:
    """A trajectory in the waiting room."""

    producer: str
    since: float
    expired: bool
    origin: str = ""
    place: str = ""


@dataclass
class Beat:
    """What a heartbeat is answered."""

    lost: set[str] = field(default_factory=set)
    unknown: set[tuple[str, int]] = field(default_factory=set)
    orphaned: set[str] = field(default_factory=set)
    closing: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)


def gone(call: Call) -> Ending:
    """How a call ends whose workspace is gone."""
    if call.state != "started":
        return "lost", "no", ""
    return "unknown" if call.outside else "lost", "unknown", ""


@dataclass
class Parts:
    """The whole fleet; every step that more than one script takes is a method."""

    workers: dict[str, Worker] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    held: dict[str, set[str]] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    entered: dict[str, list[str]] = field(default_factory=dict)
    """Trajectory -> its open calls, in order of entry."""
    room: dict[str, Waiter] = field(default_factory=dict)
    snapshots: dict[str, set[str]] = field(default_factory=dict)
    """Snapshot -> the trajectories that have yet to start from it."""
    due: set[str] = field(default_factory=set)
    """Snapshots that are to be looked at now."""
    producers: set[str] = field(default_factory=set)
    sent: dict[str, list[Entry]] = field(default_factory=dict)
    """Producer -> what was put on its reply stream since the machine looked."""

    def alive(self, name: str, boot: str) -> bool:
        worker = self.workers.get(name)
        return worker is not None and worker.alive and worker.boot == boot

    def goes_on(self, trajectory: str, chosen: Chosen) -> bool:
        """Whether the workspace of a live lease has a holder, be it a new one."""
        lease = self.leases[trajectory]
        return self.alive(lease.worker, lease.boot) or self.lose(trajectory, f"worker {lease.worker} died", chosen)

    def holds(self, trajectory: str, holder: Holder) -> bool:
        lease = self.leases.get(trajectory)
        if lease is None or lease.state not in LIVE:
            return False
        return (lease.boot, lease.epoch) == (holder.boot, holder.epoch)

    def free(self, name: str) -> int:
        return self.workers[name].slots - len(self.held.get(name, ()))

    def served(self, place: str = "") -> bool:
        return any(w.alive and place in ("", w.place) for w in self.workers.values())

    def best_workers(self, place: str = "") -> list[str]:
        there = {name: w for name, w in self.workers.items() if place in ("", w.place)}
        free = {name: self.free(name) for name, w in there.items() if w.alive and w.accepting}
        most = max(free.values(), default=0)
        return [name for name, slots in free.items() if slots == most > 0]

    def heirs(self, place: str, free: Mapping[str, int] | None = None) -> list[str]:
        """Those who reach the place and have the most free slots, be there none."""
        there = [n for n, w in self.workers.items() if w.alive and w.accepting and w.place == place != ""]
        room = {name: free[name] if free is not None else self.free(name) for name in there}
        return [name for name, slots in room.items() if slots == max(room.values())]

    def assign(self, trajectory: str, name: str, producer: str, origin: str = "") -> None:
        before = self.leases.get(trajectory, Lease(""))
        boot, epoch = self.workers[name].boot, before.epoch + 1
        self.leases[trajectory] = Lease(
            "assigned", name, boot, epoch, producer, before.lost, generation=before.generation,
            origin=origin if epoch == 1 and origin else before.origin,
        )  # fmt: skip
        self.held.setdefault(name, set()).add(trajectory)

    def seat(self, name: str) -> None:
        worker = self.workers.get(name)
        if worker is None or not worker.accepting:
            return
        free = self.free(name)
        there = [t for t, waiter in self.room.items() if waiter.place in ("", worker.place)]
        for trajectory in sorted(there, key=lambda t: (self.room[t].since, self.room[t].place, t)):
            if free <= 0:
                return
            waiter = self.room.pop(trajectory)
            if not waiter.expired and waiter.producer in self.producers:
                # One less, even for a trajectory whose slot was kept while Redis had forgotten it.
                free -= 1
                self.assign(trajectory, name, waiter.producer, waiter.origin)
                self.reply(waiter.producer, "placed", trajectory, None)

    def lose_all(self, trajectories: Iterable[str], cause: str, chosen: Chosen) -> None:
        """In whichever order explains the choices: each lease that goes makes room, or takes it from the next one."""
        left = sorted(trajectories)
        for trajectory in next((order for order in permutations(left) if self._explained(order, chosen)), left):
            self.lose(trajectory, cause, chosen)

    def _explained(self, order: Iterable[str], chosen: Chosen) -> bool:
        """Whether heirs picked in this order would be the chosen ones."""
        free = Counter({name: self.free(name) for name in self.workers})
        for trajectory in order:
            lease = self.leases[trajectory]
            best = self.heirs(lease.place, free)
            if best and chosen(trajectory) not in best:
                return False
            if best:
                free[chosen(trajectory)] -= 1
            free[lease.worker] += 1
        return True

    def lose(self, trajectory: str, cause: str, chosen: Chosen) -> bool:
        lease = self.leases[trajectory]
        best = self.heirs(lease.place)
        if best:
            assert chosen(trajectory) in best, f"{chosen(trajectory)} inherited, though {best} have more room"
            self.inherit(trajectory, chosen(trajectory))
            return True
        if lease.state == "closing":
            self.entomb(trajectory)
            return False
        told = False
        for ident in list(self.entered.get(trajectory, ())):
            call = self.calls[ident]
            if call.state == "started":
                self.end(ident, gone(call))
                told |= self.reply(call.producer, "result", ident, call.ending) and not call.outside
            else:
                self.send_back(ident)
        if lease.used:
            lease.lost = cause
            lease.generation += 1
        if told:
            lease.lost = ""
        lease.state, lease.boot, lease.sandbox, lease.place = "lost", "", "", ""
        self.held[lease.worker].discard(trajectory)
        return False

    def inherit(self, trajectory: str, heir: str) -> None:
        lease = self.leases[trajectory]
        self.held[lease.worker].discard(trajectory)
        self.held.setdefault(heir, set()).add(trajectory)
        lease.worker, lease.boot, lease.epoch = heir, self.workers[heir].boot, lease.epoch + 1
        if lease.state == "active":
            lease.state = "assigned"
        self.follow(trajectory)

    def follow(self, trajectory: str) -> None:
        """The calls of a lease that has another holder now."""
        lease = self.leases[trajectory]
        for ident in list(self.entered.get(trajectory, ())):
            call = self.calls[ident]
            if call.state == "started":
                call.holder = Holder(lease.worker, lease.boot, lease.epoch)
            elif lease.state == "closing":
                self.end(ident, ("lost", "no", ""))
                self.reply(call.producer, "result", ident, call.ending)
            else:
                self.send_back(ident)

    def send_back(self, ident: str) -> None:
        call = self.calls[ident]
        call.holder = call.holder._replace(boot="")
        self.reply(call.producer, "moved", ident, None)

    def entomb(self, trajectory: str) -> None:
        lease = self.leases[trajectory]
        for ident in list(self.entered.get(trajectory, ())):
            call = self.calls[ident]
            self.end(ident, gone(call))
            self.reply(call.producer, "result", ident, call.ending)
        lease.state, lease.boot, lease.lost, lease.used = "closed", "", "", False
        self.let_go(lease.origin, trajectory)
        lease.sandbox = lease.place = lease.origin = ""
        self.held.get(lease.worker, set()).discard(trajectory)

    def end(self, ident: str, ending: Ending, *, keep: bool = False) -> None:
        call = self.calls[ident]
        call.state, call.ending = "done", ending
        self.entered[call.trajectory].remove(ident)
        if not keep:
            self.disown(call)

    def let_go(self, snapshot: str, trajectory: str) -> None:
        if snapshot in self.snapshots:
            self.snapshots[snapshot].discard(trajectory)
            if not self.snapshots[snapshot]:
                self.due.add(snapshot)

    def disown(self, call: Call) -> None:
        if call.snapshot in self.snapshots:
            self.snapshots[call.snapshot].clear()
            self.due.add(call.snapshot)

    def reply(self, producer: str, kind: str, ident: str, ending: Ending | None) -> bool:
        if producer in self.producers:
            self.sent.setdefault(producer, []).append((kind, ident, ending))
        return producer in self.producers
