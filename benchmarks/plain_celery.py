"""What most people would write: a Celery task that runs a command, and a caller that waits for its result."""

import os
import subprocess

from celery import Celery

URL = os.environ.get("BENCH_REDIS", "redis://localhost:6379/0")

app = Celery("plain", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True


@app.task(name="plain.run")
def run(command: str) -> str:
    """Run ``command`` without any sandbox."""
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False).stdout
