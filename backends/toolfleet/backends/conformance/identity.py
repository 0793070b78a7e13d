"""Calls run once, whoever asks how often over which connection; a stale holder is refused."""

import asyncio
from collections.abc import Awaitable

from toolfleet.backends.channel import Fenced
from toolfleet.backends.conformance.core import Rig, check
from toolfleet.config.errors import InvalidArguments, SandboxLost


@check
async def a_repeated_call_runs_once(rig: Rig) -> None:
    """Later and at the same time; everybody gets the same outcome. The same goes for content."""
    box = await rig.box()
    request = box.request("exec", call_id="same", command="echo run >> /tmp/runs; sleep 0.2; cat /tmp/runs")
    outcomes = await asyncio.gather(*(box.sandbox.run(request) for _ in range(5)))
    outcomes.append(await box.sandbox.run(request))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0].stdout == b"run\n"
    assert await box.text("cat /tmp/runs") == "run"
    upload = box.request("write", call_id="w", path="/tmp/f", body=b"x" * 3_000_000)
    first = await box.sandbox.run(upload)
    await box.text("rm /tmp/f")
    assert await box.sandbox.run(upload) == first
    assert (await box.sh("test -e /tmp/f")).exit_code == 1


@check
async def another_connection_finds_a_running_call_again(rig: Rig) -> None:
    """After the first one is gone, by the reference alone."""
    box = await rig.box()
    line = "echo a; until [ -e /tmp/go ]; do sleep 0.01; done; echo b"
    request = box.request("exec", 60, "long", command=line)
    first = asyncio.create_task(box.sandbox.run(request))
    await box.eventually(lambda: box.runs("long"))
    await box.sandbox.detach()
    try:
        await first
    except SandboxLost as lost:
        assert lost.sent
    else:
        raise AssertionError("a call outlived its channel")
    other = await rig.attached(box.sandbox.ref)
    assert await other.sandbox.query("long") == "running"
    again = asyncio.create_task(other.sandbox.run(request))
    await other.text("touch /tmp/go")
    assert (await again).stdout == b"a\nb\n"
    assert await other.sandbox.query("long") == "finished"
    assert await other.sandbox.query("never") == "unknown"


@check
async def a_forgotten_outcome_is_not_run_again(rig: Rig) -> None:
    """Only so many outcomes are kept; their ids are kept longer."""
    box = await rig.box()
    request = box.request("exec", call_id="old", command="echo x >> /tmp/old")
    await box.sandbox.run(request)
    for number in range(260):
        await box.sandbox.run(box.request("exec", call_id=f"filler-{number}", command="exit"))
    outcome = await box.sandbox.run(request)
    assert outcome.error == "The call old has ended, and its outcome is no longer kept"
    assert await box.text("cat /tmp/old") == "x"


@check
async def a_higher_epoch_shuts_out_the_former_holder(rig: Rig) -> None:
    """Its commands, cancellations and pings have no effect; who attaches must claim, but may ask about a call."""
    box = await rig.box()
    await box.sandbox.claim(3)
    successor = await rig.attached(box.sandbox.ref)
    assert await successor.sandbox.query("x") == "unknown"
    assert await _fenced(successor.sandbox.ping(1)) == 3
    assert await _fenced(successor.sandbox.claim(2)) == 3
    await successor.sandbox.claim(4)
    assert await _fenced(box.sh("touch /tmp/stale")) == 4
    assert await _fenced(box.sandbox.cancel("x")) == 4
    assert await _fenced(box.sandbox.ping(1)) == 4
    assert await _fenced(box.sandbox.claim(3)) == 4
    assert (await successor.sh("test -e /tmp/stale")).exit_code == 1
    await box.sandbox.claim(5)
    assert await box.text("echo back") == "back"


async def _fenced(attempt: Awaitable[object]) -> int:
    """The epoch by which an attempt was refused."""
    try:
        await attempt
    except Fenced as fenced:
        assert not fenced.sent
        return fenced.epoch
    raise AssertionError("it was not refused")


@check
async def arguments_larger_than_a_frame_are_refused_before_they_are_sent(rig: Rig) -> None:
    """By type; the connection stays good."""
    box = await rig.box()
    for env in ({f"V{n}": "x" * 100_000 for n in range(12)}, {"A": b"bytes"}):
        try:
            await box.sh("true", env=env)
        except InvalidArguments:
            continue
        raise AssertionError("it was sent")
    assert await box.text("echo on") == "on"
