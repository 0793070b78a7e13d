"""Files in parts: any size, any order, checked as a whole, and nothing of an unfinished one to be seen."""

import hashlib
import os
from typing import Any

from toolfleet.backends.conformance.box import Box
from toolfleet.backends.conformance.core import Rig, check

#: What one part of the large file has, in bytes.
PART = 4 * 1024 * 1024
_NAME = "/tmp/-odd dir/\n 'q\" \udcff\u00e9"


async def put(box: Box, stage: str, content: bytes, part: int = PART) -> None:
    """Fill a stage, the last part first."""
    for offset in reversed(range(0, len(content), part)):
        await box.do("put", content[offset : offset + part], stage=stage, offset=offset)


async def gotten(box: Box, **source: Any) -> bytes:
    """A file or a stage, part by part, checked by its digest."""
    content, eof = b"", False
    while not eof:
        outcome = await box.do("get", **source, offset=len(content), length=PART)
        content += outcome.stdout
        eof = outcome.detail["eof"]
    whole = await box.do("get", **source, length=0, digest=True)
    assert whole.detail["sha256"] == hashlib.sha256(content).hexdigest()
    assert whole.detail["size"] == len(content)
    return content


@check
async def a_hundred_megabytes_go_in_and_out_in_parts(rig: Rig) -> None:
    """Under an odd name, with its mode; the parts come in any order, and one of them twice."""
    box = await rig.box()
    content = os.urandom(100_000_000)
    await put(box, "big", content)
    await box.do("put", content[:PART], stage="big", offset=0)
    digest = hashlib.sha256(content).hexdigest()
    done = await box.do("commit", timeout=60, stage="big", path=_NAME, size=len(content), sha256=digest, mode=0o750)
    assert (done.detail["bytes"], done.detail["sha256"]) == (len(content), digest)
    told = await box.do("get", path=_NAME, length=0)
    assert (told.detail["size"], told.detail["mode"]) == (len(content), 0o750)
    assert await gotten(box, path=_NAME) == content


@check
async def an_unfinished_transfer_is_not_to_be_seen(rig: Rig) -> None:
    """Neither before its end nor when it does not fit; what was there stays."""
    box = await rig.box(workdir="/tmp")
    await box.text("mkdir d; echo old > d/f")
    await put(box, "one", b"new content")
    assert await box.text("ls -A d; cat d/f") == "f\nold"
    error = await box.refusal("commit", stage="one", path="d/f", size=12)
    assert error == "The transfer is incomplete: 11 of 12 bytes have come"
    await put(box, "other", b"new content")
    error = await box.refusal("commit", stage="other", path="d/f", size=11, sha256=hashlib.sha256(b"x").hexdigest())
    assert error.startswith("The transfer is damaged")
    await put(box, "two", b"x")
    await box.do("drop", stage="two")
    await box.do("drop", stage="two")
    for op in ("commit", "get", "unpack"):
        error = await box.refusal(op, stage="two", path="d/f", dest="d")
        assert error == "The transfer two is not known here; start it again"
    assert await box.refusal("put", b"late", stage="two") == error
    assert await box.text("ls -A d; cat d/f") == "f\nold"


@check
async def a_file_that_changes_between_two_parts_is_told(rig: Rig) -> None:
    """By another version."""
    box = await rig.box(workdir="/tmp")
    await box.text("echo 1 > f")
    first = (await box.do("get", path="f", length=1)).detail["version"]
    assert (await box.do("get", path="f", length=1)).detail["version"] == first
    await box.text("echo 22 > f")
    assert (await box.do("get", path="f", length=1)).detail["version"] != first


@check
async def transfers_are_limited_in_number(rig: Rig) -> None:
    """A sentence, and room again when some have ended."""
    box = await rig.box()
    for number in range(64):
        await box.do("put", b"x", stage=f"s{number}")
    assert "transfers are under way" in await box.refusal("put", b"x", stage="more")
    await box.do("drop", stage="s0")
    await box.do("put", b"x", stage="more")


@check
async def only_what_is_a_file_is_gotten(rig: Rig) -> None:
    """Opening a FIFO waits for nobody."""
    box = await rig.box(workdir="/tmp")
    await box.text("mkfifo fifo; mkdir dir; : > empty")
    for path in ("fifo", "dir", "/dev/zero"):
        assert (await box.refusal("get", path=path)).startswith("Not a file: ")
    empty = await box.do("get", path="empty", digest=True)
    assert (empty.stdout, empty.detail["eof"]) == (b"", True)
    assert empty.detail["sha256"] == hashlib.sha256(b"").hexdigest()
    assert "not be negative" in await box.refusal("get", path="empty", offset=-1)
