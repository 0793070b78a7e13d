"""``python -m toolfleet.workers``: the same as ``toolfleet worker``."""

from toolfleet.workers.cli import worker

if __name__ == "__main__":
    worker()
