"""A reward function without async: plain threads share one fleet, each trajectory has a sandbox of its own."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from toolfleet.producer import Fault, SyncFleet

ANSWERS = [
    "def f(n): return n * n",
    "def f(n): return n + n",
    "def f(n): while True: pass",
    "def f(n):\n  while 1: pass",
]
TEST = "from answer import f\nassert [f(n) for n in (0, 1, 3)] == [0, 1, 9]\n"


def reward(fleet: SyncFleet, answer: str) -> float | None:
    """1 for an answer that passes the test, 0 for one that does not, None when the fleet could not find out."""
    with fleet.trajectory() as t:
        t.write_file("/work/answer.py", answer)
        t.write_file("/work/test.py", TEST)
        result = t.terminal("python3 test.py", workdir="/work", timeout=2)
    return None if result.fault is Fault.INFRASTRUCTURE else float(result.ok)


def main() -> None:
    """Score the answers side by side."""
    with SyncFleet.connect() as fleet, ThreadPoolExecutor(4) as threads:
        for answer, score in zip(ANSWERS, threads.map(partial(reward, fleet), ANSWERS), strict=True):
            print(score, repr(answer))


if __name__ == "__main__":
    main()
