"""The Celery app that producers publish through and workers run: one factory, JSON only."""

import ssl
from typing import Any
from urllib.parse import urlsplit

import kombu
from celery import Celery
from celery.app.amqp import AMQP

from toolfleet.config import keys, sentinel
from toolfleet.config.connection import broker_url, redacted

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
