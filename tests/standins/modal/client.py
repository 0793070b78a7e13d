"""Starts a stand-in and speaks to its admin socket."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parents[2]


class StandIn:
    """A running stand-in. Every deed of `admin.Admin` is a method call away: ``standin.do("cut")``."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, admin: str) -> None:
        self.process = process
        self.folder = Path(admin).parent
        self.env = {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{port}",
            "MODAL_TOKEN_ID": "ak-standin",
            "MODAL_TOKEN_SECRET": "as-standin",
            "MODAL_DISABLE_API_PROXY": "1",
        }
        """What makes the SDK come here."""
        self._admin = socket.socket(socket.AF_UNIX)
        self._admin.connect(admin)
        self._answers = self._admin.makefile("rb")

    def do(self, deed: str, **arguments: Any) -> Any:
        """Ask for a deed and return its answer."""
        self._admin.sendall(json.dumps({"deed": deed, **arguments}).encode() + b"\n")
        answer = json.loads(self._answers.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def fault(self, rpc: str, **fields: Any) -> None:
        """Let something go wrong, see `faults.Fault`."""
        self.do("fault", rpc=rpc, **fields)

    def close(self) -> None:
        """Let go of the admin socket."""
        self._answers.close()
        self._admin.close()


@contextlib.contextmanager
def running(images: Mapping[str, Path] = {}) -> Iterator[StandIn]:
    """A stand-in of its own, gone at the end."""
    argv = [sys.executable, "-m", "standins.modal"]
    for name, tree in images.items():
        argv += ["--image", f"{name}={tree}"]
    env = {**os.environ, "PYTHONPATH": str(_TESTS)}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=env)
    try:
        assert process.stdout is not None
        standin = StandIn(process, **json.loads(process.stdout.readline()))
        with contextlib.closing(standin):
            yield standin
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
