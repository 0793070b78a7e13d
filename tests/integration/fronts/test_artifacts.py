"""X9, B5: what a trajectory has made, through the executor and over HTTP."""

import asyncio
import base64
import hashlib
import io
import tarfile
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAKE = """mkdir -p out; printf 'a\\nb\\n' > out/text; head -c 200000 /dev/urandom > 'out/odd name'
ln -s /etc/passwd leak"""


async def post(http: aiohttp.ClientSession, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    """The answer to a request, which has that status."""
    async with http.post(path, json=body) as answer:
        assert answer.status == status, await answer.text()
        return dict(await answer.json())


@pytest.fixture(params=["executor", "sandbox"])
def front(
    request: pytest.FixtureRequest, http: aiohttp.ClientSession, sandbox_server: aiohttp.ClientSession
) -> tuple[aiohttp.ClientSession, dict[str, Any], dict[str, Any]]:
    """A client, what names the trajectory in its requests, and the request that makes the files."""
    if request.param == "executor":
        owner = {"trajectory_id": "t"}
        return http, owner, owner | {"tool": {"name": "bash", "arguments": {"command": MAKE}}}
    owner = {"slot_id": "slot_0"}
    return sandbox_server, owner, owner | {"tool": "bash", "args": {"command": MAKE}}


Front = tuple[aiohttp.ClientSession, dict[str, Any], dict[str, Any]]


async def test_a_file_comes_as_text_and_as_bytes_with_the_digest_of_the_whole(front: Front) -> None:
    """Defect 18: the digest was that of the part, and a file of exactly the limit counted as cut."""
    http, owner, make = front
    await post(http, "/execute", make)
    text = await post(http, "/artifacts/read", {**owner, "path": "out/text"})
    assert (text["success"], text["content"], text["truncated"], text["bytes"]) == (True, "a\nb\n", False, 4)
    asked = {**owner, "path": "out/odd name", "encoding": "base64", "include_sha256": True}
    whole = await post(http, "/artifacts/read", asked)
    content = base64.b64decode(whole["content"])
    assert (len(content), whole["truncated"], whole["file_size"]) == (200_000, False, 200_000)
    assert whole["sha256"] == hashlib.sha256(content).hexdigest()
    exact = await post(http, "/artifacts/read", {**asked, "max_bytes": 200_000})
    assert (exact["truncated"], exact["bytes"]) == (False, 200_000)
    part = await post(http, "/artifacts/read", {**asked, "max_bytes": 1_000})
    assert (part["truncated"], part["bytes"], part["sha256"]) == (True, 1_000, whole["sha256"])


async def test_a_folder_is_listed_and_packed(front: Front) -> None:
    http, owner, make = front
    await post(http, "/execute", make)
    listed = await post(http, "/artifacts/list", {**owner, "recursive": True})
    sizes = {entry["path"]: entry["size"] for entry in listed["entries"] if not entry["is_dir"]}
    assert (sizes["out/text"], sizes["out/odd name"], listed["truncated"]) == (4, 200_000, False)
    assert (await post(http, "/artifacts/list", {**owner, "max_entries": 1}))["truncated"]
    packed = await post(http, "/artifacts/archive", {**owner, "path": "out"})
    assert (packed["success"], packed["format"], packed["encoding"]) == (True, "tar.gz", "base64")
    archive = base64.b64decode(packed["content"])
    assert packed["bytes"] == len(archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert {name.removeprefix("./") for name in tar.getnames()} >= {"text", "odd name"}


@pytest.mark.parametrize("path", ["/etc/passwd", "../etc/passwd", "leak"])
async def test_what_lies_outside_the_workspace_is_denied(front: Front, path: str) -> None:
    http, owner, make = front
    await post(http, "/execute", make)
    denied = await post(http, "/artifacts/read", {**owner, "path": path}, 403 if "slot_id" in owner else 200)
    assert (denied["success"], denied["content"]) == (False, "")
    assert denied["error"] == "Access denied: path outside workspace"


async def test_an_archive_that_is_too_large_is_refused(front: Front) -> None:
    http, owner, make = front
    await post(http, "/execute", make)
    asked = {**owner, "path": "out", "max_bytes": 1_000}
    refused = await post(http, "/artifacts/archive", asked, 413 if "slot_id" in owner else 200)
    assert (refused["success"], refused["content"]) == (False, "")
    assert refused["error"].startswith("Archive too large: ")


async def test_read_file_brings_the_whole_file_or_refuses(http: aiohttp.ClientSession) -> None:
    """B4: lines without numbers, and no silent cut."""

    async def run(name: str, **arguments: str) -> dict[str, Any]:
        return await post(http, "/execute", {"trajectory_id": "t", "tool": {"name": name, "arguments": arguments}})

    lines = "".join(f"{number}\n" for number in range(5_000))
    await run("bash", command="seq 0 4999 > long; head -c 100001 /dev/zero > large")
    assert (await run("read_file", path="long"))["output"] == lines
    large = await run("read_file", path="large")
    assert (large["success"], large["error"]) == (False, "File too large: 100001 bytes (max 100000)")
    assert (await run("read_file", path="none"))["error"].startswith("File not found: ")


async def test_reading_holds_up_no_other_trajectory(http: aiohttp.ClientSession) -> None:
    """Defect 18: packing and hashing stood in the way of every slot."""

    async def run(ident: str, command: str) -> dict[str, Any]:
        body = {"trajectory_id": ident, "tool": {"name": "bash", "arguments": {"command": command}}}
        return await post(http, "/execute", body)

    await run("big", "head -c 3000000 /dev/urandom > big")
    packing = [asyncio.create_task(post(http, "/artifacts/archive", {"trajectory_id": "big"})) for _ in range(3)]
    assert (await run("small", "echo hi"))["output"] == "hi\n"
    assert all(answer["entry_count"] for answer in await asyncio.gather(*packing))
