"""Images under the public names that docker-compose.yml builds on, for a private engine that reaches no registry.

They are made of Debian's own packages, as the public ones are. What only this machine needs to reach the package
registries, its certificates and pip's settings, goes into them and so never into the product's Dockerfile.
"""

import os
import shutil
import tempfile
from pathlib import Path

import docker
import rootfs
from docker_engine import import_root

_UNPACKED = "toolfleet-test:bookworm-slim"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")

_REDIS = """FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && install -d -o redis -g redis /data
VOLUME /data
WORKDIR /data
"""


def make(client: docker.APIClient) -> None:
    """Make all of them."""
    import_root(client, rootfs.slim_debian(), _UNPACKED)
    with tempfile.TemporaryDirectory() as folder:
        _build(client, Path(folder), "debian:bookworm-slim", _debian(Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        _build(client, Path(folder), "redis:7.2-bookworm", _REDIS)


def _debian(folder: Path) -> str:
    lines = [f"FROM {_UNPACKED}", 'CMD ["bash"]']
    lines += [f'ENV {name}="{os.environ[name]}"' for name in _PIP if name in os.environ]
    if _CERTIFICATES.exists():
        shutil.copy(_CERTIFICATES, folder)
        lines += [f"COPY {_CERTIFICATES.name} {_CERTIFICATES}", f"ENV PIP_CERT={_CERTIFICATES}"]
    return "\n".join(lines)


def _build(client: docker.APIClient, folder: Path, name: str, dockerfile: str) -> None:
    (folder / "Dockerfile").write_text(dockerfile)
    said = []
    for line in client.build(path=str(folder), tag=name, rm=True, decode=True):
        said.append(str(line.get("stream", "")))
        assert "error" not in line, f"{name}: {line['error']}\n{''.join(said)[-2000:]}"
