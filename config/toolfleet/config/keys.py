"""Every Redis key and queue name of toolfleet, and nowhere else.

All keys of a fleet share one hash tag, so a cluster keeps them in one slot and a script may touch any of them.
The Lua scripts get the same names through `lua_prelude`. Every key has a TTL.
"""

#: name -> (takes an id, what it holds)
KEYS: dict[str, tuple[bool, str]] = {
    "workers": (False, "sorted set: worker id -> Redis time in ms at which its heartbeat lapses"),
    "worker": (
        True,
        "hash of a worker: boot, host, slots, accepting, inherited ..., serves:, warm:<profile>, reaches:<place>",
    ),
    "leases": (True, "set of the trajectories whose lease a worker holds; its size is the slots in use"),
    "lease": (
        True,
        "hash of a lease: state, worker, boot, epoch, generation, used, lost, producer, profile, origin, sandbox ...",
    ),
    "calls": (True, "sorted set of a trajectory's open calls, in order of submission"),
    "call": (True, "hash of a call in the ledger: state, body, result, and who carries it"),
    "producer": (True, "string that lives as long as its producer's heartbeat"),
    "replies": (True, "stream of results and notices for one producer"),
    "room": (True, "sorted set: trajectories waiting for a slot of one profile (or <profile>@<place>), by arrival"),
    "waiter": (True, "hash of a waiting trajectory: producer, profile, sweep, setup, origin, place, until"),
    "snapshots": (False, "sorted set: snapshot -> Redis time in ms at which somebody looks whether it is still wanted"),
    "snapshot": (True, "hash of a saved workspace: backend, place, spec, producer, and its id once it is saved"),
    "forks": (True, "set of the trajectories that have yet to start from a snapshot"),
    "starting": (True, "sorted set: sandboxes of one spec that are being started -> when they count no more"),
    "budget": (True, "hash of one spec: tokens of its start rate, failures in a row, until when nobody tries"),
    "part": (True, "string: bytes that belong to a call and do not fit into the ledger, by its id"),
    "blob": (True, "string: bytes of an archive, by their SHA-256"),
}


def root(fleet: str) -> str:
    """The prefix of all keys of ``fleet``."""
    return f"toolfleet:{{{fleet}}}"


def key(fleet: str, name: str, ident: str | None = None) -> str:
    """The Redis key ``name`` of ``fleet``, with its id where the key takes one."""
    takes_id, _ = KEYS[name]
    if takes_id != (ident is not None):
        raise ValueError(f"the key {name!r} {'needs an' if takes_id else 'takes no'} id")
    return f"{root(fleet)}:{name}:{ident}" if takes_id else f"{root(fleet)}:{name}"


def queue(fleet: str, worker_id: str) -> str:
    """The Celery queue that only ``worker_id`` consumes."""
    return f"toolfleet.{fleet}.{worker_id}"


def broker_prefix(fleet: str) -> str:
    """Prefix of the keys that Celery's transport makes, so that fleets on one Redis do not meet."""
    return f"{root(fleet)}:celery:"


def broker_keys(fleet: str, worker_id: str) -> list[str]:
    """The keys that Celery's transport makes for a worker and for Flower, without a TTL of their own."""
    own = queue(fleet, worker_id)
    return [broker_prefix(fleet) + name for name in (f"_kombu.binding.{own}", f"_kombu.binding_permanent.{own}", own)]


def shared_broker_keys(fleet: str) -> list[str]:
    """Likewise for the control and event exchanges that all workers of a fleet share."""
    names = ("binding.celery.pidbox", "binding.reply.celery.pidbox", "binding.celeryev", "binding_deadlines")
    return [f"{broker_prefix(fleet)}_kombu.{name}" for name in names]


def lua_prelude() -> str:
    """Lua functions ``<name>_key(id)`` over KEYS[1], the root of the fleet."""
    lines = []
    for name, (takes_id, meaning) in KEYS.items():
        tail = f"':{name}:' .. id" if takes_id else f"':{name}'"
        lines.append(f"local function {name}_key(id) return KEYS[1] .. {tail} end  -- {meaning}")
    return "\n".join(lines)
