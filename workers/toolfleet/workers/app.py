"""The Celery app of the workers: ``celery -A toolfleet.workers.app worker`` or ``... flower``.

Importing this module reads the settings; a worker's core starts only when Celery starts a worker.
"""

import json
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.exceptions import InvalidTaskError
from kombu import Exchange, Message, Queue

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


def at_once(task: "Task[Any, Any]", app: Celery, consumer: Any, **_: Any) -> Callable[..., None]:
    """Celery's strategy for `accept`: the task runs where its message is received.

    What Celery does for a task that takes its time, to acknowledge, trace, time, revoke and report it, the core does
    for every call. The message that only carries calls has no use for it.
    """

    def receive(message: Message, *_: Any) -> None:
        try:
            # Not by kombu, whose JSON turns some objects into dates and the like: these may be a model's arguments.
            (items,), _, _ = json.loads(message.body or "null")
        except (TypeError, ValueError) as error:
            raise InvalidTaskError(f"not a message of a producer: {error}") from None
        task.run(items)

    return receive


@app.task(name=ACCEPT, Strategy=f"{__name__}:at_once", send_events=False, ignore_result=True)
def accept(items: list[dict[str, Any]]) -> None:
    """Hand the items of one message to the core, and be ready for the next."""
    lifecycle.accept(items)
