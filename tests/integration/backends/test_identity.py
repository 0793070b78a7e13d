"""Calls run once, whoever asks how often over which connection; a stale holder is refused."""

import asyncio
import json
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from toolfleet.backends.channel import Channel, Fenced, unix
from toolfleet.config.errors import InvalidArguments, SandboxLost

if TYPE_CHECKING:
    from integration.backends.conftest import Box

    from toolfleet.backends.bubblewrap import BubblewrapBackend


async def test_a_repeated_call_runs_once(box: "Box") -> None:
    """Later and at the same time; everybody gets the same outcome."""
    request = box.request("exec", call_id="same", command="echo run >> /tmp/runs; sleep 0.2; cat /tmp/runs")
    outcomes = await asyncio.gather(*(box.sandbox.run(request) for _ in range(5)))
    outcomes.append(await box.sandbox.run(request))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0].stdout == b"run\n"
    assert await box.text("cat /tmp/runs") == "run"


async def test_a_repeated_upload_is_applied_once(box: "Box") -> None:
    """Content that comes along again is ignored."""
    request = box.request("write", call_id="w", path="/f", body=b"x" * 3_000_000)
    first = await box.sandbox.run(request)
    await box.text("rm /f")
    assert await box.sandbox.run(request) == first
    assert (await box.sh("test -e /f")).exit_code == 1


async def test_another_process_finds_a_running_call_again(box: "Box", backend: "BubblewrapBackend") -> None:
    """Over a connection of its own, after the first one is gone."""
    request = box.request("exec", call_id="long", command="echo a; until [ -e /tmp/go ]; do sleep 0.01; done; echo b")
    first = asyncio.create_task(box.sandbox.run(request))
    await box.eventually(lambda: _is(box, "long", "running"))
    await box.sandbox.detach()
    with pytest.raises(SandboxLost) as lost:
        await first
    assert lost.value.sent
    other = type(box)(await backend.attach(box.sandbox.ref))
    assert await other.sandbox.query("long") == "running"
    again = asyncio.create_task(other.sandbox.run(request))
    await other.text("touch /tmp/go")
    assert (await again).stdout == b"a\nb\n"
    assert await other.sandbox.query("long") == "finished"
    assert await other.sandbox.query("never") == "unknown"
    await other.sandbox.detach()


async def _is(box: "Box", call_id: str, state: str) -> bool:
    return await box.sandbox.query(call_id) == state


async def test_a_broken_connection_is_not_a_lost_call(box: "Box") -> None:
    """The channel connects again and waits for the same call."""
    request = box.request("exec", call_id="c", command="echo run >> /tmp/runs; sleep 0.3; cat /tmp/runs")
    running = asyncio.create_task(box.sandbox.run(request))
    await box.eventually(lambda: _is(box, "c", "running"))
    link = box.sandbox._channel._link
    assert link is not None
    link.transport.abort()
    assert (await running).stdout == b"run\n"


async def test_a_forgotten_outcome_is_not_run_again(box: "Box") -> None:
    """Only so many outcomes are kept; their ids are kept longer."""
    request = box.request("exec", call_id="old", command="echo x >> /tmp/old")
    await box.sandbox.run(request)
    for number in range(260):
        await box.sandbox.run(box.request("exec", call_id=f"filler-{number}", command="exit"))
    outcome = await box.sandbox.run(request)
    assert outcome.error == "The call old has ended, and its outcome is no longer kept"
    assert await box.text("cat /tmp/old") == "x"


async def test_a_higher_epoch_shuts_out_the_former_holder(box: "Box", backend: "BubblewrapBackend") -> None:
    """Its commands, cancellations and pings are refused and have no effect, over new connections too."""
    await box.sandbox.claim(3)
    successor = await backend.attach(box.sandbox.ref)
    with pytest.raises(Fenced):
        await successor.claim(2)
    await successor.claim(4)
    for attempt in (box.sh("touch /tmp/stale"), box.sandbox.cancel("x"), box.sandbox.ping(1), box.sandbox.claim(3)):
        with pytest.raises(Fenced) as fenced:
            await attempt
        assert (fenced.value.epoch, fenced.value.sent) == (4, False)
    heir = type(box)(successor)
    assert (await heir.sh("test -e /tmp/stale")).exit_code == 1
    await box.sandbox.claim(5)
    assert await box.text("echo back") == "back"
    await successor.detach()


async def test_a_new_connection_without_a_claim_is_refused_in_a_claimed_sandbox(
    box: "Box", backend: "BubblewrapBackend"
) -> None:
    """Who attaches must claim; asking about a call is always allowed."""
    await box.sandbox.claim(7)
    stranger = Channel(unix(box.sandbox.ref.address), "stranger")
    await stranger.open()
    assert await stranger.query("x") == "unknown"
    with pytest.raises(Fenced):
        await stranger.ping(1)
    await stranger.claim(8)
    await stranger.ping(60)
    await stranger.detach()


async def test_arguments_larger_than_a_frame_are_refused_before_they_are_sent(box: "Box") -> None:
    """By type; the connection stays good."""
    with pytest.raises(InvalidArguments):
        await box.sh("true", env={f"V{n}": "x" * 100_000 for n in range(12)})
    with pytest.raises(InvalidArguments):
        await box.sh("true", env={"A": b"bytes"})
    assert await box.text("echo on") == "on"


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
