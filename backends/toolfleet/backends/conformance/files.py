"""Files in and out: any name, any bytes, bounded memory, errors in sentences."""

import asyncio
import hashlib
import os
from typing import Any, Literal

from toolfleet.backends.conformance.core import Rig, check

_ODD = ("plain", "with space", "qu'o\"te$(x)`y`", "new\nline", "-rf", "\udcff\udcfe not utf-8", "é", "x" * 255)


@check
async def files_with_odd_names_round_trip(rig: Rig) -> None:
    """No shell ever sees a path; an empty file is a file."""
    box = await rig.box()
    for name in _ODD:
        for body in (bytes(range(256)) * 10 + b"\n", b""):
            written = await box.write(f"/tmp/new dir/{name}", body)
            assert written.error is None, (name, written.error)
            made = written.detail["dirs_created"]
            assert written.detail == {
                "bytes": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
                "dirs_created": made,
            }
            assert made == (name == _ODD[0] and bool(body))
            assert (await box.read(f"/tmp/new dir/{name}")).stdout == body


@check
async def a_large_binary_file_round_trips(rig: Rig) -> None:
    """60 MB, with its digest."""
    box = await rig.box()
    body = os.urandom(60_000_000)
    written = await box.write("/tmp/big", body)
    assert written.detail.get("sha256") == hashlib.sha256(body).hexdigest(), written.error
    back = await box.read("/tmp/big", max_bytes=2**40)
    assert hashlib.sha256(back.stdout).digest() == hashlib.sha256(body).digest()
    assert back.detail["size"] == len(body)


@check
async def writing_replaces_a_file_atomically_and_keeps_its_mode(rig: Rig) -> None:
    """A reader sees the old or the new content; links stay links; relative paths start from the workdir."""
    box = await rig.box(workdir="/tmp")
    await box.text("echo old > /tmp/f; chmod 750 /tmp/f; ln -s f /tmp/link")
    torn = "while read -r l < f; do [ ${#l} = 3 ] || [ ${#l} = 900000 ] || echo torn; [ -e end ] && exit; done"
    reader = asyncio.create_task(box.text(torn))
    for _ in range(5):
        assert (await box.write("/tmp/link", b"x" * 900_000 + b"\n")).error is None
    await box.write("end", b"")
    assert await reader == ""
    assert await box.text("stat -c '%a %F' f link") == "750 regular file\n777 symbolic link"
    await box.write("mode", b"", mode=0o4711)
    assert await box.text("stat -c '%a %s' /tmp/mode") == "4711 0"


_FAILURES: tuple[tuple[Literal["read", "write", "unpack"], dict[str, Any], str], ...] = (
    ("read", {"path": "/no/such"}, "File not found: /no/such"),
    ("read", {"path": "/tmp"}, "Not a file: /tmp"),
    ("read", {"path": "/tmp/fifo"}, "Not a file: /tmp/fifo"),
    ("read", {"path": "/dev/zero"}, "Not a file: /dev/zero"),
    ("read", {"path": "/etc/passwd/x"}, "Not a directory on the way to /etc/passwd/x"),
    ("read", {"path": "/tmp/loop"}, "Too many symbolic links: /tmp/loop"),
    ("read", {"path": "/" + "n" * 300}, "Name too long: /" + "n" * 300),
    ("read", {"path": "a\0b"}, "There is a NUL byte in a path"),
    ("read", {"path": ""}, "The path is empty"),
    ("read", {"path": 5}, "The argument 'path' must be a string"),
    ("read", {"path": "/etc/passwd", "offset": "1"}, "The argument 'offset' must be a whole number"),
    ("write", {"path": "/tmp"}, "Not a file: /tmp"),
    ("write", {"path": "/tmp/fifo"}, "Not a file: /tmp/fifo"),
    ("write", {"path": "/etc/passwd/x"}, "Not a directory on the way to /etc/passwd/x"),
    ("unpack", {"dest": "/tmp/d"}, "Not a readable tar archive: "),
)


@check
async def a_file_operation_that_fails_says_why(rig: Rig) -> None:
    """One sentence, a non-zero exit code, and the runner goes on."""
    box = await rig.box()
    await box.text("mkfifo /tmp/fifo; ln -s loop /tmp/loop")
    for op, args, words in _FAILURES:
        outcome = await box.sandbox.run(box.request(op, body=b"" if op == "read" else b"not a tar", **args))
        assert outcome.exit_code != 0, (op, args)
        error = outcome.error or ""
        assert error == words or (op == "unpack" and error.startswith(words)), (op, args, error)


_RANGES: tuple[tuple[dict[str, int], str, int | None], ...] = (
    ({}, "1 2 3 4 5", None),
    ({"offset": 2, "limit": 2}, "2 3", 4),
    ({"offset": 4, "limit": 2}, "4 5", None),
    ({"offset": 4, "limit": 9}, "4 5", None),
    ({"offset": 6}, "", None),
    ({"offset": 99, "limit": 1}, "", None),
    ({"limit": 0}, "", 1),
    ({"max_bytes": 5}, "1 2", 3),
    ({"offset": 3, "max_bytes": 4}, "3 4", 5),
)


@check
async def lines_are_counted_from_one(rig: Rig) -> None:
    """Whole lines, as many as fit; the last one may lack its newline; one that is too long is cut."""
    box = await rig.box()
    for end in ("\n", ""):
        await box.write("/tmp/f", ("1\n2\n3\n4\n5" + end).encode())
        for args, lines, following in _RANGES:
            outcome = await box.read("/tmp/f", **args)
            expected = "".join(f"{line}\n" for line in lines.split())
            if not end and lines.endswith("5"):
                expected = expected.removesuffix("\n")
            assert outcome.stdout.decode() == expected, (args, end)
            assert (outcome.detail["total_lines"], outcome.detail["next_offset"]) == (5, following), (args, end)
    await box.write("/tmp/f", b"x" * 100 + b"\nnext\n")
    cut = await box.read("/tmp/f", max_bytes=10)
    assert (cut.stdout, cut.detail["line_cut"], cut.detail["next_offset"]) == (b"x" * 10, True, 2)
    assert (await box.read("/tmp/f", offset=2)).stdout == b"next\n"


@check
async def a_huge_file_is_read_without_reading_all_of_it(rig: Rig) -> None:
    """Ten sparse gigabytes: the first lines come at once, and nobody counts to the end."""
    box = await rig.box()
    await box.text("printf 'a\\nb\\n' > /tmp/huge; truncate -s 10G /tmp/huge")
    outcome = await box.read("/tmp/huge", limit=2)
    assert outcome.stdout == b"a\nb\n"
    assert outcome.detail == {"size": 10 * 2**30, "total_lines": None, "next_offset": 3, "line_cut": False}


@check
async def a_file_operation_that_hangs_ends_at_its_deadline(rig: Rig) -> None:
    """And stalls nobody meanwhile."""
    box = await rig.box()
    await box.text("truncate -s 300G /tmp/endless")
    hanging = asyncio.create_task(box.sandbox.run(box.request("read", 0.3, path="/tmp/endless", offset=2)))
    assert await box.text("echo on") == "on"
    outcome = await hanging
    assert (outcome.exit_code, outcome.timed_out) == (124, True)
    assert outcome.error == "The file operation did not end in time"
