"""Trees of files: listed, packed, searched and patched, within bounds and without a shell."""

import io
import json
import tarfile
from typing import Any

from toolfleet.backends.base import Outcome
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.conformance.core import Rig, check
from toolfleet.backends.conformance.transfers import gotten, put

_TREE = """
mkdir -p t/sub/deep t/empty t/.hidden; printf 'one\\ntwo\\n' > t/a.txt; printf '#!/bin/sh\\n' > t/sub/run
chmod 750 t/sub/run; ln -s a.txt t/link; ln -s /etc t/out; mkfifo t/fifo
printf two > t/sub/deep/b.txt; printf two > t/.hidden/c.txt
printf 'two\\0' > t/binary; : > "t/sub/$(printf 'new\\nline')"; : > "t/sub/$(printf '\\377')"
"""


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    """What an operation has found."""
    return [json.loads(line) for line in outcome.stdout.splitlines()]


async def planted(rig: Rig) -> Box:
    """A sandbox with a tree at ``t`` of its workdir."""
    box = await rig.box(workdir="/tmp/work")
    await box.text("mkdir -p /tmp/work", cwd="/")
    await box.text(_TREE)
    return box


@check
async def a_tree_is_listed(rig: Rig) -> None:
    """Sorted, with kinds, sizes, modes and links; any bytes are a name; cut where it was asked for."""
    box = await planted(rig)
    flat = lines(await box.do("list", path="t"))
    names = [entry["path"] for entry in flat]
    assert names == [".hidden", "a.txt", "binary", "empty", "fifo", "link", "out", "sub"]
    assert flat[1] | {"mtime": 0} == {"path": "a.txt", "is_dir": False, "size": 8, "mtime": 0, "mode": flat[1]["mode"]}
    assert (flat[5]["link"], flat[7]["is_dir"]) == ("a.txt", True)
    deep = lines(await box.do("list", path="t", recursive=True))
    below = [entry["path"] for entry in deep if entry["path"].startswith("sub")]
    assert below == ["sub", "sub/deep", "sub/deep/b.txt", "sub/new\nline", "sub/run", "sub/\udcff"]
    assert not [entry for entry in deep if entry["path"].startswith("out/")]
    cut = await box.do("list", path="t", recursive=True, max_entries=3)
    assert (len(lines(cut)), cut.detail) == (3, {"entries": 3, "truncated": True})
    assert [entry["path"] for entry in lines(await box.do("list", path="t/a.txt"))] == ["a.txt"]
    assert await box.refusal("list", path="t/none") == "File not found: /tmp/work/t/none"


@check
async def a_tree_is_packed_and_unpacked_again(rig: Rig) -> None:
    """Modes, links and empty directories are kept, special files are named; no archive is ever a file to be seen."""
    box = await planted(rig)
    packed = await box.do("pack", path="t", stage="out", format="tar.gz")
    assert (packed.detail["left_out"], packed.detail["skipped"]) == (1, ["fifo"])
    archive = await gotten(box, stage="out")
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8", errors="surrogateescape") as tar:
        assert len(tar.getnames()) == packed.detail["entries"]
        assert tar.getmember("sub/run").mode == 0o750
        assert tar.getmember("link").linkname == "a.txt"
        assert {"empty", "sub/\udcff", "sub/new\nline"} <= set(tar.getnames())
    await box.text("rm t/out t/fifo")
    await box.do("pack", path="t", stage="in", format="tar")
    await put(box, "again", await gotten(box, stage="in"))
    await box.do("unpack", stage="again", dest="copy")
    assert await box.text("diff -r t copy && stat -c %a copy/sub/run && readlink copy/link") == "750\na.txt"


@check
async def an_archive_stays_within_its_bounds(rig: Rig) -> None:
    """Of bytes and of entries; nothing is left of one that would be larger."""
    box = await planted(rig)
    await box.text("head -c 3000000 /dev/urandom > t/large")
    assert "more than 1000000 bytes" in await box.refusal(
        "pack", path="t", stage="s", format="tar", max_bytes=1_000_000
    )
    assert "more than 3 entries" in await box.refusal("pack", path="t", stage="s", format="tar.gz", max_entries=3)
    assert (await box.do("get", stage="s", length=0)).detail["size"] == 0
    assert "must be 'tar' or 'tar.gz'" in await box.refusal("pack", path="t", stage="s", format="zip")


async def found(box: Box, pattern: str, **args: Any) -> list[dict[str, Any]]:
    """What a search in ``t`` finds."""
    return lines(await box.do("search", path="t", pattern=pattern, **{"mode": "content", **args}))


@check
async def contents_and_names_are_searched(rig: Rig) -> None:
    """Text files only, not behind links nor in hidden directories; page by page, with lines around if asked."""
    box = await planted(rig)
    assert await found(box, "^t.o$") == [
        {"path": "a.txt", "line": 2, "content": "two"},
        {"path": "sub/deep/b.txt", "line": 1, "content": "two"},
    ]
    assert [m["path"] for m in await found(box, "two", glob="b.*")] == ["sub/deep/b.txt"]
    assert await found(box, "two", mode="count", limit=1, offset=1) == [{"path": "sub/deep/b.txt", "count": 1}]
    assert await found(box, "one", context=1) == [
        {"path": "a.txt", "line": 1, "content": "one", "before": [], "after": ["two"]}
    ]
    assert [m["path"] for m in await found(box, "*.txt", mode="names")] == ["a.txt", "sub/deep/b.txt"]
    assert [m["path"] for m in await found(box, "sub/*/*.txt", mode="names")] == ["sub/deep/b.txt"]
    outcome = await box.do("search", path="t", pattern=".", mode="content", limit=1)
    assert (outcome.detail["total_count"], outcome.detail["truncated"]) == (4, True)
    assert (await box.refusal("search", path="t", pattern="(", mode="content")).startswith("Not a regular expression")


@check
async def no_search_hangs_or_fills_memory(rig: Rig) -> None:
    """A pattern that backtracks for ever ends at its deadline; huge and endless files are searched in part."""
    box = await planted(rig)
    await box.text(
        "printf '%064d!' 0 > t/evil; truncate -s 10G t/sparse; yes $(printf '%099d' 0) | head -c 20000000 > t/long"
    )
    assert [m["path"] for m in await found(box, "nowhere")] == []
    whole = await box.do("search", path="t", pattern="^0+$", mode="count", glob="long")
    assert whole.detail["searched_in_part"] == ["long"]
    outcome = await box.sandbox.run(
        box.request("search", 1.0, path="t/evil", pattern="(0*)*(0|00)*(0+)+$", mode="content")
    )
    assert outcome.timed_out
    assert await box.text("echo on") == "on"


@check
async def text_files_are_patched_all_or_nothing(rig: Rig) -> None:
    """Several files in one patch; when one does not fit, none is touched, and nothing lies about."""
    box = await planted(rig)
    head = "*** Begin Patch\n*** Update File: t/a.txt\n@@\n one\n-two\n+2\n*** Add File: t/new/n.txt\n+hello\n"
    misfit = "*** Update File: t/sub/run\n@@\n-no such line\n+x\n*** End Patch\n"
    error = await box.refusal("patch", json.dumps({"mode": "patch", "patch": head + misfit}).encode(), path=".")
    assert "found no place" in error
    assert await box.text("cat t/a.txt") == "one\ntwo"
    assert await box.text("test -e t/new || echo none") == "none"
    fit = head + "*** Move File: t/sub/run -> t/moved\n*** Delete File: t/sub/deep/b.txt\n*** End Patch"
    done = await box.do("patch", json.dumps({"mode": "patch", "patch": fit}).encode(), path=".")
    assert done.detail["files_modified"] == ["/tmp/work/t/a.txt"]
    assert done.detail["files_created"] == ["/tmp/work/t/new/n.txt", "/tmp/work/t/moved"]
    assert done.detail["files_deleted"] == ["/tmp/work/t/sub/run", "/tmp/work/t/sub/deep/b.txt"]
    assert await box.text("cat t/a.txt t/new/n.txt; stat -c %a t/moved; ls t/sub/deep") == "one\n2\nhello\n750"
    assert await box.text("find . -name '.*toolfleet*'") == ""


@check
async def a_confined_path_cannot_leave_the_workdir(rig: Rig) -> None:
    """By its name or by a link."""
    box = await planted(rig)
    assert await box.text("cat t/a.txt")
    for path in ("..", "/etc/passwd", "t/out", "t/out/passwd", "t/../../x"):
        for op, args in (("list", {}), ("get", {}), ("pack", {"stage": "s", "format": "tar"})):
            error = await box.refusal(op, path=path, confined=True, **args)  # type: ignore[arg-type]
            assert error == "Access denied: path outside workspace", (op, path)
    await box.do("get", path="/tmp/work/t/link", confined=True)
