"""Files of a container that has nothing but busybox: what is done with them needs no program of the image."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker_engine import BUSYBOX
from integration.docker.conftest import profile

from toolfleet.producer import Fleet

if TYPE_CHECKING:
    import docker


@pytest.mark.parametrize("transport", ["socket", "relay"])
async def test_files_go_in_and_out_and_are_worked_on(
    client: "docker.APIClient", transport: str, tmp_path: Path
) -> None:
    """F10, on an engine: 100 MB, an odd name, a tree, a search, a patch."""
    odd = "-rf \n'q\" $(id) \udcff"
    (tmp_path / "big").write_bytes(os.urandom(100_000_000))
    root = tmp_path / "tree"
    (root / "empty").mkdir(parents=True)
    (root / "code.py").write_text("x = 1\n")
    (root / "link").symlink_to("code.py")
    chosen = profile(image=BUSYBOX, workdir="/work", warm=0, docker={"transport": transport})
    name = f"docker-files-{transport}"
    async with (
        Fleet.connect(workers=1, slots=2, fleet=name, profiles={"default": chosen}) as fleet,
        fleet.trajectory() as t,
    ):
        await t.upload(tmp_path / "big", f"/work/{odd}")
        await t.download(f"/work/{odd}", tmp_path / "back")
        await t.upload_dir(root, "tree")
        found = await t.call("search_files", {"pattern": "x = ", "path": "tree"})
        assert found.output == "code.py:1:x = 1"
        change = {"path": "tree/code.py", "old_string": "1", "new_string": "("}
        assert (await t.call("patch", change)).detail["lint"]["status"] == "error"
        assert (await t.call("artifact_read", {"path": "tree/link"})).detail["content"] == "x = (\n"
        await t.download_dir("tree", tmp_path / "again")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()
    assert (tmp_path / "again/link").read_text() == "x = (\n"
    assert (tmp_path / "again/empty").is_dir()
    client.close()
