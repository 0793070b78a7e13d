"""The loop that every background job of a worker is."""

import asyncio

import pytest

from toolfleet.workers.service import Service


class Counting(Service):
    """Counts its rounds, and fails in those that ``errors`` names."""

    name = "counting"

    def __init__(self, interval: float, *errors: Exception) -> None:
        super().__init__(interval)
        self.rounds = 0
        self._errors = errors

    async def tick(self) -> None:
        """One round."""
        self.rounds += 1
        if self.rounds <= len(self._errors):
            raise self._errors[self.rounds - 1]


async def until(service: Counting, rounds: int) -> None:
    """Wait for so many rounds."""
    while service.rounds < rounds:
        await asyncio.sleep(0)


async def test_an_error_in_a_round_ends_that_round_only(caplog: pytest.LogCaptureFixture) -> None:
    service = Counting(0.001, ConnectionError("away"), KeyError("a bug"), AssertionError("another"))
    service.start()
    await until(service, 5)
    await service.stop()
    assert len([record for record in caplog.records if "the next one follows" in record.getMessage()]) == 3


async def test_a_round_can_be_had_at_once() -> None:
    service = Counting(1000)
    service.start()
    for rounds in (1, 2, 3):
        await until(service, rounds)
        service.wake()
    await service.stop()


async def test_starting_and_stopping_twice_is_harmless() -> None:
    service = Counting(1000)
    await service.stop()
    for _ in range(2):
        service.start()
    await until(service, 1)
    for _ in range(2):
        await service.stop()
    assert service.rounds == 1
    service.start()
    await until(service, 2)
    await service.stop()
