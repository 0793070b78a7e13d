"""What several folders of tests need: the stand-ins for clouds, and what the plain backend stands on."""

import asyncio
import shutil
from collections.abc import Iterator

import pytest
from plain_backend import PlainBackend
from services import missing
from standins.modal.client import StandIn, running

from toolfleet.config.errors import BackendUnavailable


@pytest.fixture(scope="session")
def _plain(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A machine that lets us make namespaces."""
    try:
        asyncio.run(PlainBackend(tmp_path_factory.mktemp("plain")).probe())
    except BackendUnavailable as error:
        missing(str(error))


@pytest.fixture(scope="session")
def modal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A stand-in for Modal that knows two images beside bare ones: ``tree:1``, and ``busybox:1`` without Python."""
    for tool in ("bwrap", "nsenter"):
        if shutil.which(tool) is None:
            missing(tool)
    tree = tmp_path_factory.mktemp("tree")
    (tree / "usr").mkdir()
    for link in ("bin", "lib", "lib64"):
        (tree / link).symlink_to(f"usr/{link}")
    (tree / "marker").write_text("a tree")
    images = {"tree:1": tree}
    if (busybox := shutil.which("busybox")) is not None:
        images["busybox:1"] = tmp_path_factory.mktemp("busybox")
        (images["busybox:1"] / "bin").mkdir()
        shutil.copy(busybox, images["busybox:1"] / "bin/busybox")
        (images["busybox:1"] / "bin/sh").symlink_to("busybox")
        (images["busybox:1"] / "tmp").mkdir(mode=0o777)
    with running(images) as standin:
        yield standin


@pytest.fixture
def modal_cloud(modal_server: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in, where the SDK of this process looks for Modal; no sandbox may be left in it."""
    for name, value in modal_server.env.items():
        monkeypatch.setenv(name, value)
    modal_server.do("clear")
    yield modal_server
    modal_server.do("clear")
    modal_server.do("idempotency", on=True)
    left = modal_server.do("sandboxes")
    for sandbox in left:
        modal_server.do("end", sandbox_id=sandbox["id"], status="TERMINATED")
    assert left == []
