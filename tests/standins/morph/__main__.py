"""``python -m standins.morph --port 0``: serve until SIGTERM, Ctrl-C or the death of whoever started it.

Prints one line of JSON, ``{"url": ..., "ssh_port": ..., "api_key": ...}``, when it is ready.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click
from aiohttp import web
from standins.morph.api import Api
from standins.morph.cloud import Cloud
from standins.morph.faults import Faults
from standins.morph.ssh import Gateway

_PREFIX = "toolfleet-morph-"
_PR_SET_PDEATHSIG = 1


@click.command()
@click.option("--port", default=0, show_default="a free one", help="Port of the HTTP interface on 127.0.0.1.")
@click.option("--api-key", default="standin-key", show_default=True, help="The only key that is let in.")
@click.option("--boot-seconds", default=0.0, show_default=True, help="How long an instance stays pending.")
def main(port: int, api_key: str, boot_seconds: float) -> None:
    """Stand in for MorphCloud."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
    asyncio.run(_serve(port, api_key, boot_seconds))


async def _serve(port: int, api_key: str, boot_seconds: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    home = _make_home()
    cloud = Cloud(home, boot_seconds)
    gateway = Gateway(cloud, api_key)
    faults = Faults()
    runner = web.AppRunner(Api(cloud, faults, api_key, gateway.cut).app(), shutdown_timeout=0.1)
    try:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/api"
        print(json.dumps({"url": url, "ssh_port": await gateway.listen(), "api_key": api_key}), flush=True)
        await stop.wait()
    finally:
        await cloud.close()
        await gateway.close()
        await runner.cleanup()
        shutil.rmtree(home, ignore_errors=True)


def _make_home() -> Path:
    """A folder for disks, held by a lock; those whose holder was killed are removed on the way."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with (left / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            shutil.rmtree(left, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix=_PREFIX))
    home.chmod(0o711)
    lock_file = os.open(home / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(lock_file, fcntl.LOCK_EX)
    return home


if __name__ == "__main__":
    main()
