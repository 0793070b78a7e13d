"""Connections that break, and connections that talk nonsense."""

import asyncio
import json
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from toolfleet.backends.sandbox import RunnerSandbox

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box


async def test_a_broken_connection_is_not_a_lost_call(box: "Box") -> None:
    """The channel connects again and waits for the same call."""
    request = box.request("exec", call_id="c", command="echo run >> /tmp/runs; sleep 0.3; cat /tmp/runs")
    running = asyncio.create_task(box.sandbox.run(request))
    await box.eventually(lambda: box.runs("c"))
    assert isinstance(box.sandbox, RunnerSandbox)
    link = box.sandbox._channel._link
    assert link is not None
    link.transport.abort()
    assert (await running).stdout == b"run\n"


HELLO = b'{"op":"hello","rid":1,"epoch":0}'


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!II", 2**31, 0),
        struct.pack("!II", 1_048_577, 0),
        struct.pack("!II", 4, 0) + b"\xff\xff\xff\xff",
        struct.pack("!II", 2, 0) + b"[]",
        struct.pack("!II", 200_000, 0) + b"[" * 200_000,
        *(
            struct.pack("!II", len(text), 0) + text
            for text in (
                b"{}",
                b'{"op":"nonsense","rid":1}',
                b'{"op":["run"],"rid":1}',
                b'{"op":"hello","rid":"x","epoch":0}',
                b'{"op":"hello","rid":1,"epoch":1e999}',
                b'{"op":"hello","rid":1,"epoch":null}',
                b'{"op":"data","rid":5,"last":true}',
                b'{"op":"ping","rid":1,"ttl":NaN}',
                b'{"op":"run","rid":1,"call":"c","kind":"format disk","args":{},"timeout":1}',
                b'{"op":"run","rid":1,"call":"c","kind":"exec","args":[],"timeout":1}',
                b'{"op":"run","rid":1,"call":"c","kind":"exec","args":{},"timeout":NaN}',
                b'{"op":"run","rid":1,"call":"c","kind":"exec","args":{},"timeout":-1}',
            )
        ),
    ],
    ids=lambda noise: str(noise[8:50]),
)
async def test_noise_closes_its_connection_and_nothing_else(box: "Box", noise: bytes) -> None:
    """The runner hangs up on it; others go on."""

    def speak() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(box.sandbox.ref.address)
            sock.sendall(struct.pack("!II", len(HELLO), 0) + HELLO + noise)
            heard = b""
            try:
                while data := sock.recv(65536):
                    heard += data
            except ConnectionResetError:
                pass
            return heard

    heard = await asyncio.to_thread(speak)
    assert json.loads(heard[8:])["protocol"] == 1
    assert await box.text("echo on") == "on"
