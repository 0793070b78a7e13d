"""Messages that ``submit`` puts into a worker's queue: Celery reads them as if it had sent them itself."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from integration.config.rig import Rig
from kombu import Exchange, Message, Queue

from toolfleet.config import keys
from toolfleet.config.answers import Holder
from toolfleet.config.carriage import INLINE_LIMIT, Envelope, Parcel
from toolfleet.config.celery_app import ACCEPT, envelope, make_app
from toolfleet.config.contract import ToolCall

ODD = "\"quotes\" 'and' \\back\\slashes / \n \t \0 \x7f ✂ 𝄞 </script> {items} %s"


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    made = make_app(redis_url, "test")
    yield made
    made.close()


@pytest.fixture
def addressed(app: Celery) -> Envelope:
    return envelope(app, "test", "w1")


def received(app: Celery) -> Message | None:
    """The next message of w1, by the transport that its worker uses."""
    name = keys.queue("test", "w1")
    with app.connection_for_read() as connection, connection.channel() as channel:
        return Queue(name, Exchange(""), routing_key=name)(channel).get(no_ack=True)


def items(message: Message | None) -> list[dict[str, Any]]:
    """What it carries."""
    assert message is not None
    found: list[dict[str, Any]]
    (found,), options, _ = message.payload
    assert options == {}
    return found


def parcel(holder: Holder, call: ToolCall) -> Parcel:
    return Parcel(holder, call, call.model_dump_json())


@pytest.fixture
async def holder(rig: Rig) -> Holder:
    await rig.worker()
    return await rig.hold("t1")


async def test_celery_reads_a_message_like_one_of_its_own(
    rig: Rig, app: Celery, addressed: Envelope, holder: Holder
) -> None:
    await rig.state.submit("p1", [parcel(holder, rig.call("c1"))], addressed)
    ours = received(app)
    name = keys.queue("test", "w1")
    with app.connection_for_write() as connection:
        message = app.amqp.create_task_message("id", ACCEPT, args=[[]], argsrepr="", kwargsrepr="", ignore_result=True)
        queue = Queue(name, exchange=Exchange(""), routing_key=name)
        app.amqp.send_task_message(app.amqp.Producer(connection), ACCEPT, message, queue=queue, declare=[])
    celerys = received(app)
    assert ours is not None
    assert celerys is not None
    own = {"id": "", "root_id": ""}
    assert {**ours.headers, **own} == {**celerys.headers, **own}
    assert (ours.content_type, ours.content_encoding) == (celerys.content_type, celerys.content_encoding)
    assert ours.payload[1:] == celerys.payload[1:]


async def test_a_call_arrives_as_it_was(rig: Rig, app: Celery, addressed: Envelope, holder: Holder) -> None:
    call = rig.call("c1").model_copy(update={"arguments": {"command": ODD}})
    await rig.state.submit("p1", [parcel(holder, call)], addressed)
    (item,) = items(received(app))
    assert ToolCall.model_validate(item.pop("call")) == call
    assert item == {"op": "call", "boot": holder.boot, "epoch": holder.epoch, "parallel": False}


async def test_a_long_call_travels_by_its_id(rig: Rig, app: Celery, addressed: Envelope, holder: Holder) -> None:
    call = rig.call("c1").model_copy(update={"arguments": {"command": "x" * INLINE_LIMIT}})
    await rig.state.submit("p1", [parcel(holder, call)], addressed)
    (item,) = items(received(app))
    assert "call" not in item
    assert (item["ref"], item["trajectory"]) == ("c1", "t1")
    assert ToolCall.model_validate_json(await rig.state.body("c1") or b"") == call


async def test_a_message_carries_what_may_go_and_nothing_else(
    rig: Rig, app: Celery, addressed: Envelope, holder: Holder
) -> None:
    await rig.running(holder, rig.call("ended"))
    await rig.finish(holder, rig.call("ended"))
    notice = Parcel(holder, notice={"op": "cancel", "call": "c0"})
    batch = [
        parcel(holder, rig.call("ended")),
        parcel(holder, rig.call("c1")),
        parcel(holder._replace(epoch=9), rig.call("c2")),
        notice,
        parcel(holder, rig.call("c1")),
        parcel(holder, rig.call("c1", "t2")),
    ]
    verdicts = await rig.state.submit("p1", batch, addressed)
    assert verdicts == ["done", "queued", "moved", "sent", "again", "taken"]
    found = items(received(app))
    assert [item.get("op") for item in found] == ["call", "cancel", "call"]
    assert [item["call"]["call_id"] for item in found if item["op"] == "call"] == ["c1", "c1"]
    assert received(app) is None


async def test_nothing_is_sent_when_nothing_may_go(rig: Rig, app: Celery, addressed: Envelope, holder: Holder) -> None:
    assert await rig.state.submit("p1", [parcel(holder._replace(boot="other"), rig.call())], addressed) == ["moved"]
    assert received(app) is None


async def test_a_queue_that_nobody_reads_does_not_stay_for_ever(rig: Rig, addressed: Envelope, holder: Holder) -> None:
    await rig.state.submit("p1", [parcel(holder, rig.call())], addressed)
    assert await rig.redis.pttl(addressed.queue) > 0


def test_what_stands_around_the_items_is_json_in_a_string(addressed: Envelope) -> None:
    message = json.loads(addressed.head + json.dumps(json.dumps([ODD]))[1:-1] + addressed.tail)
    assert message["properties"]["body_encoding"] is None
    assert json.loads(message["body"])[0] == [[ODD]]
