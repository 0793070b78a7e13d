"""Files in and out: any name, any bytes, bounded memory, errors in sentences."""

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from integration.backends.conftest import Box

ODD_NAMES = ["plain", "with space", "qu'o\"te$(x)`y`", "new\nline", "-rf", "\udcff\udcfe not utf-8", "é", "x" * 255]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
async def test_a_file_with_an_odd_name_round_trips(box: "Box", name: str) -> None:
    """No shell ever sees a path."""
    body = bytes(range(256)) * 10 + b"\n"
    written = await box.write(f"/tmp/new dir/{name}", body)
    assert written.error is None
    assert written.detail == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert (await box.read(f"/tmp/new dir/{name}")).stdout == body


async def test_a_large_binary_file_round_trips(box: "Box") -> None:
    """60 MB, in frames of 1 MiB, with its digest."""
    body = os.urandom(60_000_000)
    assert (await box.write("/big", body)).detail["sha256"] == hashlib.sha256(body).hexdigest()
    back = await box.read("/big", max_bytes=2**40)
    assert hashlib.sha256(back.stdout).digest() == hashlib.sha256(body).digest()
    assert back.detail["size"] == len(body)


async def test_writing_replaces_a_file_atomically_and_keeps_its_mode(box: "Box") -> None:
    """A reader sees the old or the new content; links stay links; relative paths start from the workdir."""
    await box.text("echo old > /tmp/f; chmod 750 /tmp/f; ln -s f /tmp/link")
    reader = asyncio.create_task(
        box.text("while read -r l < /tmp/f; do [ ${#l} = 3 ] || [ ${#l} = 900000 ] || echo torn; done; :", timeout=2)
    )
    for _ in range(5):
        assert (await box.write("/tmp/link", b"x" * 900_000 + b"\n")).error is None
    reader.cancel()
    assert await box.text("stat -c '%a %F' /tmp/f /tmp/link") == "750 regular file\n777 symbolic link"
    await box.write("tmp/mode", b"", mode=0o4711)
    assert await box.text("stat -c '%a %s' /tmp/mode") == "4711 0"


@pytest.mark.parametrize(
    ("op", "args", "words"),
    [
        ("read", {"path": "/no/such"}, "File not found: /no/such"),
        ("read", {"path": "/tmp"}, "Not a file: /tmp"),
        ("read", {"path": "/tmp/fifo"}, "Not a file: /tmp/fifo"),
        ("read", {"path": "/dev/zero"}, "Not a file: /dev/zero"),
        ("read", {"path": "/etc/passwd/x"}, "Not a directory on the way to /etc/passwd/x"),
        ("read", {"path": "/tmp/loop"}, "Too many symbolic links: /tmp/loop"),
        ("read", {"path": "/" + "n" * 300}, "Name too long: /" + "n" * 300),
        ("read", {"path": "/proc/1/environ"}, "Permission denied: /proc/1/environ"),
        ("read", {"path": "a\0b"}, "There is a NUL byte in a path"),
        ("read", {"path": ""}, "The path is empty"),
        ("read", {"path": 5}, "The argument 'path' must be a string"),
        ("read", {"path": "/etc/passwd", "offset": "1"}, "The argument 'offset' must be a whole number"),
        ("write", {"path": "/tmp"}, "Not a file: /tmp"),
        ("write", {"path": "/tmp/fifo"}, "Not a file: /tmp/fifo"),
        ("write", {"path": "/usr/x"}, "Read-only file system: /usr/x"),
        ("write", {"path": "/etc/passwd/x"}, "Not a directory on the way to /etc/passwd/x"),
        ("unpack", {"dest": "/tmp/d"}, "Not a readable tar archive: "),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_file_operation_that_fails_says_why(box: "Box", op: str, args: dict[str, Any], words: str) -> None:
    """One sentence, a non-zero exit code, and the runner goes on."""
    await box.text("mkfifo /tmp/fifo; ln -s loop /tmp/loop")
    outcome = await box.sandbox.run(box.request(op, body=b"" if op == "read" else b"not a tar", **args))
    assert outcome.exit_code != 0
    assert outcome.error is not None
    assert outcome.error == words or (op == "unpack" and outcome.error.startswith(words))


@pytest.mark.parametrize(
    ("args", "lines", "total", "following"),
    [
        ({}, "1 2 3 4 5", 5, None),
        ({"offset": 2, "limit": 2}, "2 3", 5, 4),
        ({"offset": 4, "limit": 2}, "4 5", 5, None),
        ({"offset": 4, "limit": 9}, "4 5", 5, None),
        ({"offset": 6}, "", 5, None),
        ({"offset": 99, "limit": 1}, "", 5, None),
        ({"limit": 0}, "", 5, 1),
        ({"max_bytes": 5}, "1 2", 5, 3),
        ({"offset": 3, "max_bytes": 4}, "3 4", 5, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("end", ["\n", ""])
async def test_lines_are_counted_from_one(
    box: "Box", args: dict[str, Any], lines: str, total: int, following: int | None, end: str
) -> None:
    """Whole lines, as many as fit; the last one may lack its newline."""
    await box.write("/f", ("1\n2\n3\n4\n5" + end).encode())
    outcome = await box.read("/f", **args)
    expected = "".join(f"{line}\n" for line in lines.split())
    if not end and lines.endswith("5"):
        expected = expected.removesuffix("\n")
    assert outcome.stdout.decode() == expected
    assert outcome.detail["total_lines"] == total
    assert outcome.detail["next_offset"] == following


async def test_a_line_that_is_too_long_is_cut_and_not_lost_track_of(box: "Box") -> None:
    """The next line is the next line."""
    await box.write("/f", b"x" * 100 + b"\nnext\n")
    cut = await box.read("/f", max_bytes=10)
    assert (cut.stdout, cut.detail["line_cut"], cut.detail["next_offset"]) == (b"x" * 10, True, 2)
    assert (await box.read("/f", offset=2)).stdout == b"next\n"


async def test_a_huge_file_is_read_without_reading_all_of_it(box: "Box") -> None:
    """Ten sparse gigabytes: the first lines come at once, and nobody counts to the end."""
    await box.text("printf 'a\\nb\\n' > /huge; truncate -s 10G /huge")
    outcome = await box.read("/huge", limit=2)
    assert outcome.stdout == b"a\nb\n"
    assert outcome.detail == {"size": 10 * 2**30, "total_lines": None, "next_offset": 3, "line_cut": False}
    assert outcome.ran < 2


async def test_a_file_operation_that_hangs_ends_at_its_deadline(box: "Box") -> None:
    """And stalls nobody meanwhile."""
    await box.text("truncate -s 300G /endless")
    request = box.request("read", 0.3, path="/endless", offset=2)
    hanging = asyncio.create_task(box.sandbox.run(request))
    assert await box.text("echo on") == "on"
    outcome = await hanging
    assert (outcome.exit_code, outcome.timed_out) == (124, True)
    assert outcome.error == "The file operation did not end in time"
