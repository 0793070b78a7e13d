"""What a redis-server is started with that not every version knows."""

import re
import subprocess


def debugging(server: str) -> list[str]:
    """The option that allows DEBUG. A server before 7.0 allows it anyway, and refuses what it does not know."""
    told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\d+)", told)
    return ["--enable-debug-command", "yes"] if version is None or int(version[1]) >= 7 else []
