"""The Celery app that producers publish through and workers run: one factory, JSON only."""

import json
import ssl
from typing import Any
from urllib.parse import urlsplit

import kombu
from celery import Celery
from celery.app.amqp import AMQP
from kombu.transport import virtual

from toolfleet.config import keys, sentinel
from toolfleet.config.carriage import Envelope
from toolfleet.config.connection import broker_url, redacted
from toolfleet.config.contract import new_id

#: The one task: it takes a batch of items and returns at once.
ACCEPT = "toolfleet.accept"


class _Broker(kombu.Connection):
    """A connection that is tried again every second or two: a worker must not be deaf for longer than Redis is away."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect, trying until that is done."""
        pauses = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}
        return super().ensure_connection(*args, **{**pauses, **options})


class _Amqp(AMQP):
    Connection = _Broker


def make_app(url: str, fleet: str) -> Celery:
    """A Celery app for ``fleet`` on the Redis at ``url``.

    No result backend: results travel on reply streams. No visibility timeout: queues are ``no_ack`` and the ledger is
    the truth about a call.
    """
    app = Celery("toolfleet", amqp=_Amqp, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        task_ignore_result=True,
        task_default_delivery_mode="transient",
        task_create_missing_queues=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Redis may refuse commands for a while, e.g. as a replica after a failover: connect again, do not end.
        broker_channel_error_retry=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_pool="solo",
        worker_prefetch_multiplier=0,
        # No task runs long here; what Celery would do by default, said so that it does not warn at each reconnection.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_proc_alive_timeout=30,
        enable_utc=True,
    )
    options = {
        "global_keyprefix": keys.broker_prefix(fleet),
        "socket_keepalive": True,
        # Without them a publish to a host that is gone waits for the kernel to give up, a quarter of an hour.
        "socket_connect_timeout": 5,
        "socket_timeout": 15,
        # Likewise for the one that waits for messages.
        "health_check_interval": 5,
    }
    found = _found(url)
    found["broker_transport_options"] = {**found.get("broker_transport_options", {}), **options}
    app.conf.update(found)
    return app


def _found(url: str) -> dict[str, Any]:
    """The settings that say where the broker is."""
    if sentinel.is_sentinel(url):
        return sentinel.transport(sentinel.parse(url, redacted(url)))
    found: dict[str, Any] = {"broker_url": broker_url(url)}
    if urlsplit(url).scheme == "rediss" and "ssl_cert_reqs" not in url:
        found["broker_use_ssl"] = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return found


def envelope(app: Celery, fleet: str, worker_id: str) -> Envelope:
    """How Celery and its transport would write messages to a worker.

    Written once and used for every message: they differ in nothing but their items. Who sends one can so put it into
    the queue in the same step as its calls into the ledger (``submit.lua``), and a message costs no second round trip.
    """
    written: list[str] = []

    class Paper(virtual.Channel):
        # The body stays as it is: what Redis puts together cannot be base64.
        body_encoding: str | None = None  # type: ignore[assignment]  # as kombu means it

        def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
            written.append(json.dumps(message))

    class Desk(virtual.Transport):
        Channel = Paper

    name, hole = keys.queue(fleet, worker_id), new_id("items")
    # Nobody reads Celery's picture of the arguments.
    message = app.amqp.create_task_message(
        new_id("carry"), ACCEPT, args=[hole], argsrepr="", kwargsrepr="", ignore_result=True
    )
    with kombu.Connection(transport=Desk) as connection:
        app.amqp.send_task_message(
            app.amqp.Producer(connection),
            ACCEPT,
            message,
            # The nameless exchange leads straight to the queue: no binding is looked up, and none is left behind.
            queue=kombu.Queue(name, exchange=kombu.Exchange(""), routing_key=name),
            declare=[],
            serializer="json",
            retry=False,
        )
    head, tail = written[0].split(json.dumps(json.dumps(hole))[1:-1])
    return Envelope(keys.broker_prefix(fleet) + name, head, tail)
