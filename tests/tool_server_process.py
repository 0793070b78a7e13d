"""A ToolServer as a process of its own, with the tools of ``own_tools``."""

import contextlib
import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet_processes import TOOLFLEET, end, free_port, wait_until

TESTS = Path(__file__).parent


@dataclass
class Server:
    """Where it listens, what it asks for, and what it logs."""

    url: str
    token: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(
        self, path: str, body: object = None, *, token: str | None = None, raw: bytes | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of the answer to a GET, or to a POST of ``body``."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        if given := self.token if token is None else token:
            request.add_header("Authorization", f"Bearer {given}")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response), dict(response.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), dict(error.headers)

    def run(self, name: str, arguments: dict[str, Any] | None = None, **around: Any) -> dict[str, Any]:
        """The reply to a call of a tool."""
        body = {"tool": {"name": name, "arguments": arguments or {}, "uniq_id": "u1"}, **around}
        status, reply, _ = self.ask("/execute", body)
        assert status == 200, reply
        assert isinstance(reply, dict)
        return reply


@contextlib.contextmanager
def tool_server(token: str = "secret-of-the-server", port: int = 0, **env: str) -> Iterator[Server]:
    """``toolfleet tool-server``, ready."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        log = Path(folder) / "log"
        everything = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TOOLFLEET_")},
            "PYTHONPATH": str(TESTS),
            "TOOLFLEET_TOOLS": '["own_tools"]',
            **({"TOOLFLEET_TOOL_SERVER_TOKEN": token} if token else {}),
            **env,
        }
        argv = [*TOOLFLEET, "tool-server", "--port", str(port), "--loglevel", "DEBUG"]
        with log.open("wb") as out:
            process = subprocess.Popen(argv, env=everything, cwd=folder, stdout=out, stderr=out)
        server = Server(f"http://127.0.0.1:{port}", token, process, log)
        try:
            wait_until(lambda: _answers(server))
            yield server
        finally:
            end(process)


def _answers(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    try:
        return server.ask("/health")[0] == 200
    except urllib.error.URLError:
        return False
