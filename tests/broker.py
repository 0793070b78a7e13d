"""What a broker may do to messages."""

from collections.abc import Callable, Sequence
from typing import cast

from toolfleet.config.carriage import Envelope, Parcel
from toolfleet.producer import Fleet


def deliver_twice(fleet: Fleet, when: Callable[[], bool]) -> None:
    """Have the messages of ``fleet`` arrive twice, word by word, whenever ``when`` says so."""
    publisher, client = fleet._publisher, fleet.state.redis
    send = publisher._send_batch

    async def send_twice(addressed: Envelope, batch: Sequence[Parcel]) -> list[str]:
        if not when():
            return await send(addressed, batch)
        # A queue that nobody reads shows the message; a key of the fleet, so that it goes with it.
        aside = addressed._replace(queue=f"{addressed.queue}.{fleet.producer_id}")
        verdicts = await send(aside, batch)
        while (message := await client.rpop(aside.queue)) is not None:
            for _ in range(2):
                await client.lpush(addressed.queue, cast("bytes", message))
        return verdicts

    publisher._send_batch = send_twice  # type: ignore[method-assign]
