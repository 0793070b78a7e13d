"""Connections kept for one command after another, without asking the client's pool for one each time."""

import asyncio
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.connection import AbstractConnection

#: Seconds without an answer after which a connection is given up, where the client's ``socket_timeout`` says nothing.
SILENCE = 15.0


class Lines:
    """Sends commands as they are, and returns answers as they come: no retries, no cluster, no conversion.

    The client's own way, by its pool, its retries and a timeout for each half, is longer than a short command, of which
    every call has several. The connections are the pool's, and end with it.
    """

    def __init__(self, client: redis.asyncio.Redis, keep: int = 4) -> None:
        self._pool: Any = client.connection_pool
        self._keep = keep
        self._idle: list[AbstractConnection] = []
        self._configured: float | None = self._pool.connection_kwargs.get("socket_timeout")
        self._timeout = self._configured or SILENCE
        self._hanging_up: set[asyncio.Task[None]] = set()

    async def ask(self, *command: str | int | bytes) -> Any:
        """The answer to one command.

        Raises:
            redis.exceptions.RedisError, OSError: as the client does; no answer within the client's ``socket_timeout``
                is a connection that broke.
        """
        connection = self._idle.pop() if self._idle else await self._take()
        overdue = asyncio.get_running_loop().call_later(self._timeout, self._hang_up, connection)
        try:
            await connection.send_command(*command)
            answer = await connection.read_response()
        except redis.exceptions.ConnectionError:
            # Also when Redis answered that it takes nothing for now: the next connection may lead to another one.
            await connection.disconnect(nowait=True)
            raise
        finally:
            overdue.cancel()
            # Also after an error or a cancellation: redis-py has hung up by then, lest a late answer meet the next
            # question, and connects again when the next one comes.
            if len(self._idle) < self._keep:
                self._idle.append(connection)
            else:
                await self._give_back(connection)
        return answer

    async def _take(self) -> AbstractConnection:
        connection: AbstractConnection = await self._pool.get_connection()
        # redis-py would wrap each half of a command in a task and a timeout of its own; one timer does for both.
        connection.socket_timeout = None
        return connection

    async def _give_back(self, connection: AbstractConnection) -> None:
        connection.socket_timeout = self._configured
        await self._pool.release(connection)

    def _hang_up(self, connection: AbstractConnection) -> None:
        task = asyncio.create_task(connection.disconnect(nowait=True))
        self._hanging_up.add(task)
        task.add_done_callback(self._hanging_up.discard)
