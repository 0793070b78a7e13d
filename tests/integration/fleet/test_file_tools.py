"""The tools for files through a real fleet: what a model sees, and what a program finds in ``detail``."""

import base64
import hashlib
import io
import tarfile
from typing import Any

import pytest

from toolfleet.config.contract import OUTPUT_LIMIT, Status
from toolfleet.producer import Fleet, ToolResult, Trajectory

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def done(t: Trajectory, name: str, **arguments: Any) -> ToolResult:
    """A call that must succeed."""
    r = await t.call(name, arguments)
    assert (r.status, r.error, r.exit_code) == (Status.OK, None, 0), r
    return r


async def refused(t: Trajectory, name: str, **arguments: Any) -> str:
    """The error of a call that ran and could not do its work."""
    r = await t.call(name, arguments)
    assert (r.status, r.exit_code, r.output.startswith(r.error or "?")) == (Status.OK, 1, True), r
    return r.error or ""


async def test_read_file_numbers_its_lines_and_says_where_to_read_on(fleet: Fleet) -> None:
    """B9: ``%6d|line``, lines cut at 2000, total_lines, file_size, truncated, hint."""
    async with fleet.trajectory() as t:
        await t.terminal("seq 5 > /tmp/f; printf '%03000d' 0 >> /tmp/f")
        r = await done(t, "read_file", path="/tmp/f", offset=2, limit=2)
        assert r.output == "     2|2\n     3|3\n[Use offset=4 to read on; the file has 6 lines]"
        assert (r.stdout, r.truncated) == ("2\n3\n", True)
        assert r.detail == {
            "total_lines": 6,
            "file_size": 3010,
            "is_binary": False,
            "is_image": False,
            "truncated": True,
            "hint": "Use offset=4 to read on; the file has 6 lines",
        }
        last = await done(t, "read_file", path="/tmp/f", offset=6)
        assert last.output == f"     6|{'0' * 2000}... [truncated]"
        assert (last.stdout, last.truncated) == ("0" * 3000, False)
        assert "has only 6 lines" in (await done(t, "read_file", path="/tmp/f", offset=9)).output
        await t.terminal(": > /tmp/empty")
        assert (await done(t, "read_file", path="/tmp/empty")).output == "\n[The file is empty]"


async def test_pages_of_a_file_make_the_whole_file(fleet: Fleet) -> None:
    """However wide its lines are: what does not fit into a result is on the next page, and nothing is cut out."""
    text = "".join(f"{n} {'x' * (n * 7 % 1900)}\n" for n in range(1, 400)) + "the end"
    async with fleet.trajectory() as t:
        await t.write_file("/tmp/f", text)
        pages, offset = [], 1
        while True:
            r = await t.read_file("/tmp/f", offset=offset, limit=2000)
            assert len(r.output) <= OUTPUT_LIMIT
            assert not r.bytes_dropped
            pages.append(r.stdout)
            if not r.truncated:
                break
            offset += r.stdout.count("\n")
    assert "".join(pages) == text
    assert len(pages) > 5


async def test_what_cannot_be_read_is_told_with_a_way_on(fleet: Fleet) -> None:
    """B9: similar_files on a miss, is_binary, is_image."""
    async with fleet.trajectory() as t:
        await t.terminal("mkdir /tmp/d; : > /tmp/d/config.yaml; printf 'a\\0b' > /tmp/bin; mkfifo /tmp/fifo")
        await t.terminal("printf '\\211PNG\\r\\n\\032\\n\\0' > /tmp/i.png")
        r = await t.call("read_file", {"path": "/tmp/d/config.yml"})
        assert (r.error, r.exit_code) == ("File not found: /tmp/d/config.yml", 1)
        assert r.detail["similar_files"] == ["/tmp/d/config.yaml"]
        assert "Similar files: /tmp/d/config.yaml" in r.output
        assert await refused(t, "read_file", path="/tmp/none/x") == "File not found: /tmp/none/x"
        assert await refused(t, "read_file", path="/tmp/fifo") == "Not a file: /tmp/fifo"
        binary, image = [await t.read_file(path) for path in ("/tmp/bin", "/tmp/i.png")]
        assert (binary.detail["is_binary"], binary.detail["is_image"], binary.stdout) == (True, False, "")
        assert (image.detail["is_binary"], image.detail["is_image"]) == (True, True)


async def test_write_file_is_verified_and_parsed(fleet: Fleet) -> None:
    """B9, N9: bytes_written, dirs_created, verified by SHA-256; a file that cannot be parsed is told, and written."""
    async with fleet.trajectory() as t:
        r = await done(t, "write_file", path="/tmp/new/f.py", content="def f(:\n")
        assert r.detail["lint"]["status"] == "error"
        assert "line 1" in r.output
        assert (r.detail["bytes_written"], r.detail["dirs_created"], r.detail["verified"]) == (8, True, True)
        assert r.detail["sha256"] == hashlib.sha256(b"def f(:\n").hexdigest()
        for name, content, status in (
            ("g.py", "x = 1\n", "ok"),
            ("g.json", "{", "error"),
            ("g.toml", "a = 1", "ok"),
            ("g.py", "(" * 100_000, "error"),
            ("g.txt", "{", "skipped"),
        ):
            r = await done(t, "write_file", path=f"/tmp/new/{name}", content=content)
            assert (r.detail["lint"]["status"], r.detail["dirs_created"]) == (status, False), (name, r.detail)
        assert (await t.terminal("cat /tmp/new/f.py")).stdout == "def f(:\n"


async def test_patch_replaces_one_text(fleet: Fleet) -> None:
    """B10: success, diff, files_modified, lint, no_change, note."""
    async with fleet.trajectory() as t:
        await t.write_file("/tmp/f.py", "def f():\n    return 1\n")
        r = await done(t, "patch", path="/tmp/f.py", old_string="return 1", new_string="return 2")
        assert "-    return 1\n+    return 2\n" in r.output
        assert r.detail["diff"] == r.output
        assert (r.detail["success"], r.detail["files_modified"]) == (True, ["/tmp/f.py"])
        assert r.detail["lint"] == {"status": "ok"}
        loose = await done(t, "patch", path="/tmp/f.py", old_string="return  2", new_string="return 3 +")
        assert "ignoring white space" in loose.output
        assert "cannot be parsed" in loose.output
        same = await done(t, "patch", path="/tmp/f.py", old_string="return", new_string="return")
        assert same.detail["no_change"]
        assert "does not stand in" in await refused(t, "patch", path="/tmp/f.py", old_string="zzz", new_string="")
        await t.write_file("/tmp/two", "a\na\n")
        assert "set replace_all" in await refused(t, "patch", path="/tmp/two", old_string="a", new_string="b")
        await done(t, "patch", path="/tmp/two", old_string="a", new_string="b", replace_all=True)
        assert (await t.terminal("cat /tmp/two")).stdout == "b\nb\n"


async def test_patch_changes_several_files_or_none(fleet: Fleet) -> None:
    """B10: V4A."""
    text = "*** Begin Patch\n*** Add File: /tmp/n.json\n+{}\n*** Update File: /tmp/f\n@@\n-z\n+b\n*** End Patch"
    async with fleet.trajectory() as t:
        await t.write_file("/tmp/f", "a\n")
        assert (await refused(t, "patch", mode="patch", patch=text)).startswith("Nothing was changed: ")
        assert (await t.terminal("ls /tmp")).stdout == "f\n"
        r = await done(t, "patch", mode="patch", patch=text.replace("-z", "-a"))
        assert (r.detail["files_created"], r.detail["files_modified"]) == (["/tmp/n.json"], ["/tmp/f"])
        assert r.detail["lint"]["files"]["/tmp/n.json"] == {"status": "ok"}
        assert (await t.terminal("cat /tmp/f /tmp/n.json")).stdout == "b\n{}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": "/f"}, "mode 'replace' needs old_string, new_string"),
        ({"mode": "patch"}, "mode 'patch' needs patch"),
        ({"mode": "other"}, "mode: Input should be"),
    ],
)
async def test_patch_without_what_its_mode_needs_is_rejected(
    fleet: Fleet, arguments: dict[str, Any], words: str
) -> None:
    async with fleet.trajectory() as t:
        r = await t.call("patch", arguments)
    assert r.status is Status.REJECTED
    assert words in r.output


async def test_search_files_finds_contents_and_names(fleet: Fleet) -> None:
    """B10: total_count, matches, files, counts, truncated; offset and context."""
    async with fleet.trajectory() as t:
        await t.terminal("mkdir -p /tmp/s/sub; cd /tmp/s; printf 'a\\nneedle\\nb\\n' > x.py; cp x.py sub/y.txt")
        await t.terminal("cd /tmp/s; printf 'needle\\377' > $(printf 'odd\\376')")
        r = await done(t, "search_files", pattern="need.e$", path="/tmp/s")
        assert r.output == "sub/y.txt:2:needle\nx.py:2:needle"
        assert r.stdout == r.output
        assert r.detail == {
            "total_count": 2,
            "truncated": False,
            "matches": [
                {"path": "sub/y.txt", "line": 2, "content": "needle"},
                {"path": "x.py", "line": 2, "content": "needle"},
            ],
        }
        r = await done(t, "search_files", pattern="needle", path="/tmp/s", context=1, file_glob="*.py")
        assert r.output == "--\nx.py-1-a\nx.py:2:needle\nx.py-3-b"
        r = await done(t, "search_files", pattern="needle", path="/tmp/s", limit=1, output_mode="count")
        assert (r.detail["counts"], r.detail["total_count"], r.truncated) == ({"odd\\xfe": 1}, 3, True)
        r = await done(t, "search_files", pattern="needle", path="/tmp/s", output_mode="files_only", offset=1)
        assert r.detail["files"] == ["sub/y.txt", "x.py"]
        r = await done(t, "search_files", pattern="*.py", target="files", path="/tmp/s")
        assert (r.detail["files"], r.output) == (["x.py"], "x.py")
        assert (await done(t, "search_files", pattern="zzz", path="/tmp/s")).output == "No results"
        assert "Not a regular expression" in await refused(t, "search_files", pattern="(", path="/tmp/s")
        assert "File not found" in await refused(t, "search_files", pattern="a", path="/tmp/none")


async def test_a_search_that_backtracks_for_ever_times_out(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        await t.terminal("printf '%064d!' 0 > /tmp/f")
        r = await t.call("search_files", {"pattern": "(0*)*(0|00)*(0+)+$", "path": "/tmp/f"}, timeout=1)
        assert r.status is Status.TIMEOUT
        assert (await t.terminal("echo on")).stdout == "on\n"


async def test_artifacts_are_read_listed_and_archived(fleet: Fleet) -> None:
    """B5, defect 18: the digest is that of the whole file, and ``truncated`` is false at the exact limit."""
    async with fleet.trajectory() as t:
        await t.terminal("mkdir -p /w/d; printf 'h\\303\\251llo' > /w/d/f.txt; head -c 3000000 /dev/urandom > /w/big")
        r = await done(t, "artifact_read", path="/w/d/f.txt", include_sha256=True)
        assert r.detail == {
            "success": True,
            "content": "h\u00e9llo",
            "encoding": "text",
            "truncated": False,
            "bytes": 6,
            "file_size": 6,
            "path": "/w/d/f.txt",
            "mime": "text/plain",
            "sha256": hashlib.sha256("h\u00e9llo".encode()).hexdigest(),
        }
        told = (await t.terminal("sha256sum < /w/big")).stdout.split()[0]
        for most, cut in ((3_000_000, False), (2_999_999, True)):
            r = await done(t, "artifact_read", path="/w/big", encoding="base64", max_bytes=most, include_sha256=True)
            assert (r.detail["truncated"], r.detail["file_size"], r.detail["sha256"]) == (cut, 3_000_000, told)
            assert len(base64.b64decode(r.detail["content"])) == r.detail["bytes"] == most
        r = await done(t, "artifact_list", path="/w", recursive=True)
        assert [(e["path"], e["is_dir"], e["size"]) for e in r.detail["entries"]][:1] == [("/w/big", False, 3_000_000)]
        assert [e["path"] for e in r.detail["entries"]] == ["/w/big", "/w/d", "/w/d/f.txt"]
        assert (await done(t, "artifact_list", path="/w", max_entries=1)).detail["truncated"]
        r = await done(t, "artifact_archive", path="/w/d")
        content = base64.b64decode(r.detail["content"])
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            assert tar.getnames() == ["f.txt"]
        assert (r.detail["bytes"], r.detail["entry_count"], r.detail["format"]) == (len(content), 1, "tar.gz")
        assert "Archive too large" in await refused(t, "artifact_archive", path="/w", max_bytes=1000)
        assert await refused(t, "artifact_read", path="/w/none") == "File not found: /w/none"


async def test_artifacts_stay_within_the_workdir(fleet: Fleet) -> None:
    """B4, B5: an escape is refused, by name or by link."""
    async with fleet.trajectory(profile="confined") as t:
        await t.terminal("echo in > f; ln -s /etc/passwd link; ln -s / root", workdir="/work")
        assert (await done(t, "artifact_read", path="f")).detail["content"] == "in\n"
        assert [e["path"] for e in (await done(t, "artifact_list")).detail["entries"]] == ["f", "link", "root"]
        for path in ("../etc/passwd", "/etc/passwd", "link", "root/etc/passwd"):
            for tool in ("artifact_read", "artifact_list", "artifact_archive"):
                assert await refused(t, tool, path=path) == "Access denied: path outside workspace"


async def test_pages_of_a_search_make_the_whole_and_none_is_cut(fleet: Fleet) -> None:
    """However wide the matches are: an answer holds as many as fit into a result."""
    async with fleet.trajectory() as t:
        await t.terminal("for n in $(seq 300); do printf '%0400d needle\\n' $n; done > /tmp/f")
        numbers: list[int] = []
        while True:
            arguments = {"pattern": "needle", "path": "/tmp/f", "limit": 500, "offset": len(numbers), "context": 1}
            r = await t.call("search_files", arguments)
            assert "OUTPUT TRUNCATED" not in r.output
            numbers += [match["line"] for match in r.detail["matches"]]
            assert r.detail["total_count"] == 300
            if not r.truncated:
                break
            assert f"use offset={len(numbers)} to read on" in r.output
    assert numbers == list(range(1, 301))
