"""Files and trees through a real fleet: any name, any size, whole or not at all."""

import asyncio
import hashlib
import os
import resource
import stat
from pathlib import Path

import pytest

from toolfleet.config.contract import Status
from toolfleet.config.errors import LocalFileError, RemoteFileError, TrajectoryClosed
from toolfleet.producer import Fleet

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Spaces, quotes, a newline, a leading dash, a dollar sign, and a byte that is no UTF-8.
ODD = "-rf \n'q\" $(id) \udcff"


async def test_a_hundred_megabytes_with_an_odd_name_round_trip(fleet: Fleet, tmp_path: Path) -> None:
    """F10, T4, T6, defects 38 and 39; neither this process nor Redis ever holds a large part of it."""
    local, back = tmp_path / ODD, tmp_path / f"back{ODD}"
    with local.open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(1_000_000))
    local.chmod(0o751)
    async with fleet.trajectory() as t:
        await t.terminal("true")
        await fleet.state.redis.config_resetstat()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sent = await t.upload(local, f"/tmp/{ODD}/{ODD}")
        got = await t.download(f"/tmp/{ODD}/{ODD}", back)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        memory = await fleet.state.redis.info("memory")
        listed = await t.terminal("cd /tmp/-* && ls -A | wc -l && stat -c '%a %s' -- *")
    assert sent == got
    assert (got.bytes, got.mode) == (100_000_000, 0o751)
    assert back.read_bytes() == local.read_bytes()
    assert stat.S_IMODE(back.stat().st_mode) == 0o751
    assert listed.stdout == "2\n751 100000000\n"  # a newline in one name
    assert grown < 60_000_000
    assert memory["used_memory_peak"] < 60_000_000
    assert sorted(os.listdir(tmp_path)) == sorted([local.name, back.name])


async def test_nothing_of_a_transfer_stays_in_redis(fleet: Fleet, tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(os.urandom(5_000_000))
    async with fleet.trajectory() as t:
        await t.upload(local, "/tmp/f")
        await t.download("/tmp/f", tmp_path / "g")
    while [key async for key in fleet.state.redis.scan_iter("*:part:*")]:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, 2 * 1024 * 1024, 2 * 1024 * 1024 + 1])
async def test_every_size_round_trips(fleet: Fleet, tmp_path: Path, size: int) -> None:
    """T6: an empty file is a file."""
    (tmp_path / "f").write_bytes(os.urandom(size))
    async with fleet.trajectory() as t:
        await t.upload(tmp_path / "f", "/tmp/new/f", mode=0o600)
        assert (await t.terminal("stat -c %a /tmp/new/f")).stdout == "600\n"
        moved = await t.download("/tmp/new/f", tmp_path / "new/g")
    assert (moved.bytes, (tmp_path / "new/g").read_bytes()) == (size, (tmp_path / "f").read_bytes())


async def test_an_upload_is_in_line_with_the_calls_before_it(fleet: Fleet, tmp_path: Path) -> None:
    """Its file appears when they have ended."""
    (tmp_path / "f").write_text("new")
    async with fleet.trajectory() as t:
        await t.terminal("true")
        before = asyncio.create_task(t.terminal("sleep 0.5; cat /tmp/f || echo none"))
        await asyncio.sleep(0)
        await t.upload(tmp_path / "f", "/tmp/f")
        assert before.done()
        assert (await before).stdout == "none\n"


async def test_a_tree_round_trips(fleet: Fleet, tmp_path: Path) -> None:
    """T5, T7: modes, links and empty directories are kept; what leads out is named."""
    root = tmp_path / "tree"
    (root / ODD / "empty").mkdir(parents=True)
    (root / ODD / "run").write_text("#!/bin/sh\necho ran\n")
    (root / ODD / "run").chmod(0o755)
    (root / "link").symlink_to(f"{ODD}/run")
    (root / "out").symlink_to("/etc/passwd")
    (root / "large").write_bytes(os.urandom(3_000_000))
    async with fleet.trajectory() as t:
        sent = await t.upload_dir(root, f"/tmp/{ODD}")
        assert (sent.entries, sent.skipped) == (5, ["out"])
        assert (await t.terminal("/tmp/-*/link; find / -xdev -name '*toolfleet*'")).stdout == "ran\n"
        await t.terminal("cd /tmp/-* && ln -s /etc/passwd out && mkfifo fifo")
        got = await t.download_dir(f"/tmp/{ODD}", tmp_path / "back")
    assert sorted(got.skipped) == ["fifo", "out"]
    assert (tmp_path / "back/large").read_bytes() == (root / "large").read_bytes()
    assert os.readlink(tmp_path / "back/link") == f"{ODD}/run"
    assert os.access(tmp_path / "back" / ODD / "run", os.X_OK)
    assert os.listdir(tmp_path / "back" / ODD / "empty") == []
    assert sorted(os.listdir(tmp_path)) == ["back", "tree"]


async def test_what_goes_wrong_is_told_by_type_and_leaves_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """T4 to T7: a missing file or directory, on either side."""
    (tmp_path / "f").write_bytes(b"x" * 100)
    async with fleet.trajectory() as t:
        with pytest.raises(LocalFileError, match="No such file"):
            await t.upload(tmp_path / "none", "/tmp/f")
        with pytest.raises(LocalFileError, match="Is a directory"):
            await t.upload(tmp_path, "/tmp/f")
        with pytest.raises(LocalFileError, match="Local directory not found"):
            await t.upload_dir(tmp_path / "f", "/tmp/f")
        with pytest.raises(RemoteFileError, match="Not a file: /tmp"):
            await t.upload(tmp_path / "f", "/tmp")
        with pytest.raises(RemoteFileError, match="File not found: /tmp/none"):
            await t.download("/tmp/none", tmp_path / "g")
        with pytest.raises(RemoteFileError, match="File not found: /tmp/none"):
            await t.download_dir("/tmp/none", tmp_path / "g")
        await t.upload(tmp_path / "f", "/tmp/f")
        with pytest.raises(RemoteFileError, match="max_bytes allows 99"):
            await t.download("/tmp/f", tmp_path / "g", max_bytes=99)
        with pytest.raises(LocalFileError, match="it is a directory"):
            await t.download("/tmp/f", tmp_path)
        assert os.listdir(tmp_path) == ["f"]
    with pytest.raises(TrajectoryClosed):
        await t.upload(tmp_path / "f", "/tmp/f")


async def test_a_file_larger_than_the_disk_is_refused_in_words(fleet: Fleet, tmp_path: Path) -> None:
    """And its parts are gone: another upload has room."""
    with (tmp_path / "f").open("wb") as file:
        file.truncate(600_000_000)
    (tmp_path / "g").write_text("small")
    async with fleet.trajectory() as t:
        with pytest.raises(RemoteFileError, match="No space left: the sandbox may write 512 MiB"):
            await t.upload(tmp_path / "f", "/tmp/f")
        while not (await t.terminal("head -c 400000000 /dev/zero > /tmp/room")).ok:
            await asyncio.sleep(0.05)


async def test_a_model_cannot_call_what_transfers_are_made_of(fleet: Fleet) -> None:
    """It could bring about failures that count as the fleet's."""
    async with fleet.trajectory() as t:
        r = await t.call("put_part", {"stage": "s", "offset": 0})
    assert r.status is Status.REJECTED
    assert "put_part'; available: " in r.output


async def test_transfers_work_whatever_tools_a_profile_allows(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text")
    async with fleet.trajectory(profile="reader") as t:
        await t.upload(tmp_path / "f", "/tmp/f")
        assert "text" in (await t.read_file("/tmp/f")).output


async def test_a_cancelled_upload_leaves_nothing_in_the_sandbox(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(50_000_000))
    async with fleet.trajectory() as t:
        await t.terminal("true")
        upload = asyncio.create_task(t.upload(tmp_path / "f", "/tmp/f"))
        while not [key async for key in fleet.state.redis.scan_iter("*:part:*")]:
            await asyncio.sleep(0)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        while int((await t.terminal("df -k --output=used / | tail -1")).stdout) > 1000:
            await asyncio.sleep(0.05)
        assert (await t.terminal("ls -A /tmp")).stdout == ""


async def test_many_transfers_at_once_take_no_more_memory_than_a_few(fleet: Fleet, tmp_path: Path) -> None:
    """Eight at a time have slots; each moves eight parts in and out."""
    (tmp_path / "f").write_bytes(os.urandom(16_000_000))
    await fleet.state.redis.config_resetstat()

    async def move(number: int) -> str:
        async with fleet.trajectory() as t:
            await t.upload(tmp_path / "f", "/tmp/f")
            return (await t.download("/tmp/f", tmp_path / f"g{number}")).sha256

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    moved = await asyncio.gather(*(move(number) for number in range(8)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert set(moved) == {hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest()}
    assert grown < 100_000_000
    assert (await fleet.state.redis.info("memory"))["used_memory_peak"] < 150_000_000
