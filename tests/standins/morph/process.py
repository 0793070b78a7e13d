"""The stand-in as a test uses it: a process of its own, and what to order it to do wrong."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standins.morph.faults import Fault

_TESTS = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class StandIn:
    """A running stand-in."""

    url: str
    ssh_port: int
    api_key: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead the SDK to it."""
        return {
            "MORPH_API_KEY": self.api_key,
            "MORPH_BASE_URL": self.url,
            "MORPH_SSH_HOSTNAME": "127.0.0.1",
            "MORPH_SSH_PORT": str(self.ssh_port),
            "MORPH_CONFIG_PATH": os.devnull,
        }

    def fault(self, kind: str, path: str, **rest: Any) -> None:
        """Do this wrong from now on, see `Fault`."""
        self._ask("POST", "/admin/faults", Fault.model_validate({"kind": kind, "path": path, **rest}).model_dump_json())

    def clear(self) -> None:
        """Do everything right from now on."""
        self._ask("DELETE", "/admin/faults")

    def requests(self) -> list[str]:
        """``METHOD /path`` of all requests so far."""
        return list(self._ask("GET", "/admin/requests"))

    def instances(self) -> list[dict[str, Any]]:
        """All instances, as the API shows them."""
        return list(self._ask("GET", "/api/instance")["data"])

    def snapshots(self) -> list[dict[str, Any]]:
        """All snapshots, as the API shows them."""
        return list(self._ask("GET", "/api/snapshot")["data"])

    def lose(self, instance: str) -> None:
        """End an instance as if its host had died."""
        self._ask("POST", f"/admin/lose/{instance}")

    def cut(self, instance: str, refuse: int = 0) -> int:
        """Abort the SSH connections of an instance, and the next ``refuse`` ones of any; how many there were."""
        return int(self._ask("POST", f"/admin/cut/{instance}?refuse={refuse}")["cut"])

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        url = self.url.removesuffix("/api") + path
        request = urllib.request.Request(url, None if body is None else body.encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def launch(*options: str) -> "subprocess.Popen[str]":
    """Start the process; its first line of output says how to reach it."""
    command = [sys.executable, "-m", "standins.morph", "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(_TESTS)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@contextlib.contextmanager
def running(*options: str) -> Iterator[StandIn]:
    """A stand-in for as long as the block lasts."""
    with launch(*options) as process:
        assert process.stdout is not None
        try:
            yield StandIn(**json.loads(process.stdout.readline()), pid=process.pid)
        finally:
            process.terminate()
            assert process.wait(30) == 0
