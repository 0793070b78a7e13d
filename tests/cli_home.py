"""Runs the command line as a stranger would, and looks for what it leaves behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

TOOLFLEET = [sys.executable, "-c", "from toolfleet.config.cli import main; main()"]


class Home:
    """A folder for all that a command writes, and the environment that keeps it there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tmp = folder / "tmp"
        self.sockets = folder / "run"
        self.tmp.mkdir()
        self.env = {
            **os.environ,
            "TMPDIR": str(self.tmp),
            "TOOLFLEET_RUNTIME_DIR": str(self.sockets),
            "TOOLFLEET_HEARTBEAT": "0.2",
            "COLUMNS": "200",
        }

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start ``toolfleet`` with ``arguments``."""
        return subprocess.Popen(
            [*TOOLFLEET, *arguments],
            env={**self.env, **env},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``toolfleet`` to its end."""
        with self.start(*arguments, **env) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def leftovers(self) -> list[str]:
        """Processes, mounts and files that belong to this home."""
        found = [str(path) for path in self.tmp.iterdir()]
        if self.sockets.exists():
            found += [str(path) for path in self.sockets.rglob("*") if not path.is_dir()]
            found += [str(path) for path in self.sockets.glob("sandboxes/*")]
        mark = str(self.folder).encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                own = int(process.name) != os.getpid() and mark in (process / "environ").read_bytes()
                if own and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(f"{process.name}: {(process / 'cmdline').read_bytes()!r}")
            except OSError:
                continue
        found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.folder) in line]
        return found

    def wait_until_clean(self, seconds: float = 30.0) -> None:
        """Wait until nothing is left; fail with what is."""
        deadline = time.monotonic() + seconds
        while left := self.leftovers():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
