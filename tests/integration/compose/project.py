"""docker-compose.yml as a stranger uses it, under a name, with passwords and on ports of its own."""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import rootfs
from docker_engine import Place
from fleet_processes import free_port
from services import missing

ROOT = Path(__file__).parents[3]
_PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"


def installed() -> Iterator[tuple[list[str], int]]:
    """The command of every Compose on this machine, and the first number of its version."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and (found := re.search(r"(\d+)\.\d+", done.stdout)):
            yield command, int(found[1])


def compose() -> list[str]:
    """The command of a Compose of version 2 or later."""
    for command, version in installed():
        if version >= 2:
            return command
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        missing("docker compose, version 2")
    folder = rootfs.CACHE / "compose-plugin"
    subprocess.run([ROOT / "scripts/compose-plugin", folder], check=True)
    return [str(folder / _PLUGIN)]


class Project:
    """One project on an engine."""

    def __init__(self, place: Place, runtime_dir: Path) -> None:
        self.name = f"toolfleet-test-{secrets.token_hex(4)}"
        self.redis_password, self.flower_password = secrets.token_hex(16), secrets.token_hex(16)
        self.redis_port, self.flower_port = free_port(), free_port()
        self.client = docker.APIClient(base_url=place.url, version="auto", timeout=120)
        self._command = compose()
        self._env = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "DOCKER_HOST": place.url,
            "DOCKER_SOCKET": place.url.removeprefix("unix://"),
            "RUNTIME_DIR": str(runtime_dir),
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_PROFILES": "docker",
            "IMAGE_TAG": self.name,
            "REDIS_PASSWORD": self.redis_password,
            "REDIS_PORT": str(self.redis_port),
            "FLOWER_BASIC_AUTH": f"me:{self.flower_password}",
            "FLOWER_PORT": str(self.flower_port),
            "TOOLFLEET_FLEET": self.name,
            "TOOLFLEET_SLOTS": "2",
        }

    def __call__(self, *arguments: str) -> str:
        """Run ``docker compose ARGUMENTS``; what it printed. No ``.env`` of the developer's is read."""
        command = [*self._command, "--env-file", ".env.example", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def containers(self, service: str | None = None, *, running: bool = False) -> list[Any]:
        """What the engine knows of the project's containers."""
        labels = [f"com.docker.compose.project={self.name}"]
        labels += [] if service is None else [f"com.docker.compose.service={service}"]
        found = self.client.containers(all=not running, filters={"label": labels})
        return [self.client.inspect_container(container["Id"]) for container in found]

    def sandboxes(self, worker: str = "") -> list[Any]:
        """Containers that are sandboxes of the project's fleet, or of one of its workers."""
        labels = [f"toolfleet.fleet={self.name}", *([f"toolfleet.worker={worker}"] if worker else [])]
        found: list[Any] = self.client.containers(all=True, filters={"label": labels})
        return found

    def remains(self) -> list[str]:
        """What is left on the engine, of the project and of its sandboxes."""
        mine = {"label": [f"com.docker.compose.project={self.name}"]}
        containers = [*self.client.containers(all=True, filters=mine), *self.sandboxes()]
        networks = self.client.networks(filters=mine)
        volumes = self.client.volumes(filters=mine)["Volumes"] or []
        return [
            *(container["Names"][0] for container in containers),
            *(network["Name"] for network in networks),
            *(volume["Name"] for volume in volumes),
        ]
