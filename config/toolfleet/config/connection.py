"""Connections to Redis, and the check that it can serve as one."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from toolfleet.config import sentinel
from toolfleet.config.errors import RedisUnavailable, RedisUnsupported, SettingsError
from toolfleet.config.outages import KINDS, OUTAGES

__all__ = ["CONNECTIONS", "OLDEST", "OUTAGES", "broker_url", "check", "client", "redacted"]

#: The oldest Redis that has every command the scripts use. Valkey reports a version above it.
OLDEST = (6, 2)

#: Connections of one client at most; who finds all of them busy waits its turn.
CONNECTIONS = 16


def redacted(url: str) -> str:
    """``url`` without its password and query, fit for a log."""
    # By hand: a password with `/`, `?` or `#` in it sends a parser's cuts astray, and a part of it into the log.
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    secret, at, place = rest.rpartition("@")
    place = "" if "?" in secret else place.partition("?")[0].partition("#")[0]
    return f"{scheme}{mark}{'***@' if at else ''}{place}"


def client(url: str, *, retries: int = 6) -> redis.asyncio.Redis:
    """A client that answers in bytes and repeats a command over short outages; every script bears being repeated.

    Raises:
        SettingsError: the URL is not one of Redis.
    """
    options: dict[str, Any] = {
        "max_connections": CONNECTIONS,
        "timeout": None,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries),
        "socket_connect_timeout": 5,
        # Above the 5 s that a reader of the reply stream blocks; a connection that died in silence is noticed after it.
        "socket_timeout": 15,
    }
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    if sentinel.is_sentinel(url):
        return redis.asyncio.Redis.from_pool(sentinel.pool(sentinel.parse(url, redacted(url)), options))
    try:
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, **options)
    except ValueError:
        # The parser's own words may quote a part of the password.
        hint = "write redis://, rediss://, unix:// or sentinel://, and %-encode special characters in the password"
        raise SettingsError(f"redis_url {redacted(url)} is not an address of Redis: {hint}") from None
    # Only now: the URL's own kind of connection wins over an option.
    pool.connection_class = KINDS[url.partition("://")[0]]
    return redis.asyncio.Redis.from_pool(pool)


async def check(connection: redis.asyncio.Redis, url: str, patience: float = 10.0) -> str:
    """Make sure that what answers at ``url`` within ``patience`` seconds is Redis, new enough; the version.

    Raises:
        RedisUnavailable: it does not answer, or refuses the password.
        RedisUnsupported: it is too old, or not Redis.
    """
    where = redacted(url)
    try:
        async with asyncio.timeout(patience):
            info = await connection.info("server")
    except OUTAGES as error:
        # redis-py wraps a refused password when it makes the connection.
        if isinstance(error.__cause__ or error, redis.exceptions.AuthenticationError):
            raise RedisUnavailable(f"Redis at {where} refuses the password: {error}. Put it in redis_url.") from None
        raise RedisUnavailable(
            f"Redis at {where} does not answer: {error or 'no reply'}. Is it running, and redis_url right?"
        ) from None
    except redis.exceptions.RedisError as error:
        raise RedisUnsupported(f"what answers at {where} is no Redis from 6.2 on, nor Valkey: {error}") from None
    version = str(info.get("redis_version", "unknown"))
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    if numbers < OLDEST:
        raise RedisUnsupported(f"Redis at {where} is {version}; toolfleet needs 6.2 or newer, or Valkey.")
    return version


def broker_url(url: str) -> str:
    """``url`` as Celery's transport writes it: a unix socket has a scheme and a parameter of its own there."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    query = f"?{parts.query.replace('db=', 'virtual_host=')}" if parts.query else ""
    return f"redis+socket://{parts.netloc}{parts.path}{query}"
