"""``python -m standins.modal``: serve until SIGTERM, SIGINT or the end of the parent, and leave nothing behind."""

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import click
from aiohttp import web
from grpclib.server import Server
from modal._utils.grpc_utils import custom_detail_codec
from standins.modal.admin import Admin
from standins.modal.cloud import Cloud
from standins.modal.faults import Faults
from standins.modal.plane import ControlPlane
from standins.modal.router import Router

_PR_SET_PDEATHSIG = 1


async def _serve(port: int, folder: Path, images: dict[str, Path]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # asyncio sets TCP_NODELAY only on sockets that know their protocol; without it each RPC takes 40 ms longer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    port = listener.getsockname()[1]
    blobs = socket.create_server(("127.0.0.1", 0))

    cloud = Cloud(folder, images)
    faults = Faults()
    control = ControlPlane(cloud, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{blobs.getsockname()[1]}")
    plane, router = control.service(faults), Router(cloud).service(faults)
    uploads = web.AppRunner(control.blobs())
    await uploads.setup()
    await web.SockSite(uploads, blobs).start()
    server = Server([plane, router], status_details_codec=custom_detail_codec)
    await server.start(sock=listener)
    admin = await Admin(cloud, faults, plane, router).serve(folder / "admin.sock")
    print(json.dumps({"port": port, "admin": str(folder / "admin.sock")}), flush=True)
    await stop.wait()
    admin.close()
    server.close()
    await uploads.cleanup()
    await cloud.close()


@click.command()
@click.option("--port", default=0, help="TCP port on 127.0.0.1; 0 takes a free one.")
@click.option("--image", "images", multiple=True, metavar="NAME=DIR", help="An unpacked tree for a registry name.")
def main(port: int, images: tuple[str, ...]) -> None:
    """Serve; the first line of output is JSON with the port and the path of the admin socket."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent has ended already")
    trees = dict(image.split("=", 1) for image in images)
    folder = Path(tempfile.mkdtemp(prefix="modal-standin-"))
    asyncio.run(_serve(port, folder, {name: Path(tree) for name, tree in trees.items()}))


if __name__ == "__main__":
    main()
