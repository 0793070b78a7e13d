"""Connections kept for one command after another, without asking the client's pool for one each time."""

from typing import Any

import redis.asyncio
from redis.asyncio.connection import AbstractConnection


class Lines:
    """Sends commands as they are, and returns answers as they come: no retries, no cluster, no conversion.

    The client's own way costs twice the time of a short command, which counts where every call has several. Its
    connections are the pool's, and end with it.
    """

    def __init__(self, client: redis.asyncio.Redis, keep: int = 4) -> None:
        self._pool: Any = client.connection_pool
        self._keep = keep
        self._idle: list[AbstractConnection] = []

    async def ask(self, *command: str | int | bytes) -> Any:
        """The answer to one command.

        Raises:
            redis.exceptions.RedisError, OSError: as the client does.
        """
        connection = self._idle.pop() if self._idle else await self._pool.get_connection()
        try:
            await connection.send_command(*command)
            answer = await connection.read_response()
        except BaseException:
            # Whatever it was, a cancellation for one: an answer may still come, and must not meet the next question.
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)
            raise
        if len(self._idle) < self._keep:
            self._idle.append(connection)
        else:
            await self._pool.release(connection)
        return answer
