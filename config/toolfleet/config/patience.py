"""Repeating what fails for a while: work on Redis that bears being done twice."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential, wait_random

from toolfleet.config.connection import OUTAGES

T = TypeVar("T")


async def persist(
    work: Callable[[], Awaitable[T]], seconds: float, transient: tuple[type[BaseException], ...] = OUTAGES
) -> T:
    """What ``work`` returns, tried again with backoff for ``seconds`` while it raises one of ``transient``.

    The last error is raised when time is up. The machinery is built only after a first failure: this lies on the way
    of every call.
    """
    try:
        return await work()
    except transient:
        pass
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(transient),
        wait=wait_exponential(multiplier=0.1, max=2.0) + wait_random(0, 0.1),
        stop=stop_after_delay(seconds),
        reraise=True,
    )

    async def again() -> T:
        return await work()

    return await retrying(again)
