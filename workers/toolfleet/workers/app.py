"""The Celery app of the workers: ``celery -A toolfleet.workers.app worker`` or ``... flower``.

Importing this module reads the settings; a worker's core starts only when Celery starts a worker.
"""

from typing import Any

from celery.worker.request import Request
from kombu import Exchange, Queue

from toolfleet.config.celery_app import ACCEPT, make_app
from toolfleet.config.errors import SettingsError
from toolfleet.config.settings import load
from toolfleet.workers.lifecycle import Lifecycle, register_revoke

settings = load()
if settings.redis_url is None:
    raise SettingsError("a worker needs redis_url: set TOOLFLEET_REDIS_URL, e.g. redis://localhost:6379/0")

app = make_app(settings.redis_url.get_secret_value(), settings.fleet)
lifecycle = Lifecycle(app, settings, settings.redis_url.get_secret_value())
# Acked on receipt: the ledger, not the broker, knows what was not finished. The nameless exchange leads straight to
# the queue and leaves no binding behind.
app.conf.task_queues = [Queue(lifecycle.queue, exchange=Exchange(""), routing_key=lifecycle.queue, no_ack=True)]
app.conf.task_default_queue = lifecycle.queue
lifecycle.connect_signals()
register_revoke(lifecycle)


class Carriage(Request):
    """A message from a ``no_ack`` queue: there is nothing to acknowledge, and Celery's attempt costs a round trip."""

    def acknowledge(self) -> None:
        """Do nothing."""
        self.acknowledged = True


@app.task(name=ACCEPT, Request=Carriage, send_events=False, ignore_result=True)
def accept(items: list[dict[str, Any]]) -> None:
    """Hand the items of one message to the core, and be ready for the next."""
    lifecycle.accept(items)
