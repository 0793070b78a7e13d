"""What can go wrong in a chaos run: each fault hurts the ground once, and says what it did."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.ground import TIMES, Ground

#: Seconds of a pause beyond a lease, and of one of Redis.
PAUSE, REDIS_PAUSE = TIMES["lease_ttl"] + 2.0, 3.0


@dataclass
class Faults:
    """Injects faults, one at a time, where enough of the fleet is well to bear them."""

    ground: Ground
    random: random.Random
    killed_sandboxes_of: set[str] = field(default_factory=set)
    """Trajectories whose sandbox was killed: they alone may be told a loss."""
    _ending: list[threading.Thread] = field(default_factory=list)

    def inject(self, name: str) -> bool:
        """Do it; False when the fleet is too hurt for it by now."""
        return KINDS[name](self)

    def settle(self) -> None:
        """Wait for what ends by itself: pauses, restarts."""
        for thread in self._ending:
            thread.join()

    # -- kinds

    def kill_worker(self) -> bool:
        """kill -9, and another process under the same name some seconds later."""
        if (name := self._victim()) is None:
            return False
        process = self.ground.workers[name]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._later(self.random.uniform(0.2, 8.0), lambda: self.ground.start_worker(name))
        return True

    def pause_worker(self) -> bool:
        """SIGSTOP for longer than a lease."""
        if (name := self._victim()) is None:
            return False
        process = self.ground.workers[name]
        process.send_signal(signal.SIGSTOP)
        self._later(PAUSE, lambda: process.send_signal(signal.SIGCONT))
        return True

    def restart_worker(self) -> bool:
        """SIGTERM, and another process under the same name once it has ended."""
        if (name := self._victim()) is None:
            return False
        process = self.ground.workers[name]
        process.send_signal(signal.SIGTERM)

        def again() -> None:
            process.wait()
            self.ground.start_worker(name)

        self._later(0.0, again)
        return True

    def pause_redis(self) -> bool:
        """SIGSTOP of Redis."""
        self.ground.redis_process.send_signal(signal.SIGSTOP)
        time.sleep(REDIS_PAUSE)
        self.ground.redis_process.send_signal(signal.SIGCONT)
        return True

    def kill_runner(self) -> bool:
        """kill -9 of PID 1 of a sandbox that has a trajectory."""
        leased = self.ground.leased()
        alive = [directory for directory in self.ground.sandboxes() if directory.id in leased]
        if not alive:
            return False
        directory = self.random.choice(alive)
        record = directory.read()
        if record is None or record.runner is None:
            return False
        self.killed_sandboxes_of.add(leased[directory.id])
        os.kill(record.runner.pid, signal.SIGKILL)
        return True

    def kill_producer(self) -> bool:
        """kill -9 of one of two producers."""
        alive = [said for said in self.ground.producers if said.process.poll() is None]
        if len(alive) < 2:
            return False
        said = self.random.choice(alive)
        said.killed = True
        said.process.kill()
        return True

    # -- parts

    def _victim(self) -> str | None:
        """A worker that has something to lose; two others must be well, to have an heir for sure."""
        healthy = self.ground.healthy()
        if len(healthy) < 3:
            return None
        return self.random.choice(sorted(healthy, key=self.ground.held)[1:])

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        def wait_and_work() -> None:
            time.sleep(seconds)
            work()

        thread = threading.Thread(target=wait_and_work)
        thread.start()
        self._ending.append(thread)


KINDS: dict[str, Callable[[Faults], bool]] = {
    "kill -9 a worker": Faults.kill_worker,
    "pause a worker beyond its lease": Faults.pause_worker,
    "restart a worker": Faults.restart_worker,
    "pause Redis for 3 s": Faults.pause_redis,
    "kill -9 a runner": Faults.kill_runner,
    "kill -9 a producer": Faults.kill_producer,
}
