"""The Celery app that producers publish through and workers run: one factory, JSON only."""

import ssl
from urllib.parse import urlsplit

from celery import Celery

from toolfleet.config import keys
from toolfleet.config.connection import broker_url

#: The one task: it takes a batch of items and returns at once.
ACCEPT = "toolfleet.accept"


def make_app(url: str, fleet: str) -> Celery:
    """A Celery app for ``fleet`` on the Redis at ``url``.

    No result backend: results travel on reply streams. No visibility timeout: queues are ``no_ack`` and the ledger is
    the truth about a call.
    """
    app = Celery("toolfleet", broker=broker_url(url), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        task_ignore_result=True,
        task_default_delivery_mode="transient",
        task_create_missing_queues=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"global_keyprefix": keys.broker_prefix(fleet), "socket_keepalive": True},
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_pool="solo",
        worker_prefetch_multiplier=0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=30,
        enable_utc=True,
    )
    if urlsplit(url).scheme == "rediss" and "ssl_cert_reqs" not in url:
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app
