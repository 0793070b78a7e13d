"""Functions of others, so many at once, none beyond its deadline: coroutines on the loop, blocking ones on threads."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any


class NoTurn(Exception):
    """The function was not run: too many others were ahead of it."""


class Overran(Exception):
    """The function was stopped at its deadline, or, where it blocks, left to itself."""


class Turns:
    """``running`` functions at once, and ``waiting`` ones in line for them.

    A thread cannot be stopped. One that goes on after its deadline keeps its turn until it ends, so that a function
    that hangs costs a turn, and never an unbounded number of threads.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(running)
        self._room = waiting
        self._waiting = 0

    async def run(self, function: Callable[[float], Any], seconds: float, *, blocking: bool) -> Any:
        """What ``function`` gives, when that is within ``seconds``, its time in line included.

        It is called with the seconds that it has left: on a thread when it is ``blocking``, else to be awaited.

        Raises:
            NoTurn: it was not run.
            Overran: it did not end in time.
            Exception: its own.
        """
        deadline = time.monotonic() + seconds
        await self._turn(deadline)
        left = max(0.0, deadline - time.monotonic())
        work = self._on_thread(partial(function, left)) if blocking else self._on_loop(function(left))
        try:
            await asyncio.wait({work}, timeout=left)
            if not work.done():
                raise Overran(f"timed out after {seconds:.3g} s")
            return work.result()
        finally:
            work.cancel()

    async def _turn(self, deadline: float) -> None:
        if self._free.locked() and self._waiting >= self._room:
            raise NoTurn("too many calls wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._free.acquire()
        except TimeoutError:
            raise NoTurn("no turn came before the deadline") from None
        finally:
            self._waiting -= 1

    def _on_loop(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        task = asyncio.create_task(_contained(work))
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, work: asyncio.Future[Any]) -> None:
        self._free.release()
        if not work.cancelled():
            work.exception()  # seen: what fails after its deadline concerns nobody

    def _on_thread(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: Exception | None) -> None:
            self._free.release()
            if ended.cancelled():
                return
            if error is None:
                ended.set_result(value)
            else:
                ended.set_exception(error)

        def work() -> None:
            value: Any = None
            failure: Exception | None = None
            try:
                value = function()
            except _NO_FAILURE as error:
                failure = _as_failure(error)
            except Exception as error:  # noqa: BLE001 - the waiter's to judge
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, value, failure)

        # A daemon: a function that never returns must not keep the process from ending.
        threading.Thread(target=work, name="toolfleet-tool", daemon=True).start()
        return ended


#: What must not leave a function of others: a future takes no StopIteration, and the others end the process.
_NO_FAILURE = (StopIteration, SystemExit, KeyboardInterrupt)


def _as_failure(error: BaseException) -> RuntimeError:
    return RuntimeError(f"{type(error).__name__}: {error}")


async def _contained(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except _NO_FAILURE as error:
        raise _as_failure(error) from error
