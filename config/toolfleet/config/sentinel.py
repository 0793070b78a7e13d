"""Addresses of a Redis behind Sentinel: ``sentinel://[[user]:password@]host[:port][,host[:port]...]/<master>[/db]``.

The password is that of Redis; the sentinels themselves are asked without one. ``sentinels://`` speaks TLS with both,
and takes redis-py's ``ssl_...`` options in its query.
"""

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff

from toolfleet.config.errors import SettingsError
from toolfleet.config.outages import Patience

DEFAULT_PORT = 26379

#: How long a sentinel is waited for; one that is away is passed over quickly, for there are others.
ASKING = {"socket_connect_timeout": 2, "socket_timeout": 2}

#: What a query may say: how TLS is spoken.
TLS_OPTIONS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")

_URL = re.compile(
    r"(?P<scheme>sentinels?)://(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?(?P<hosts>[^@/?#]+)"
    r"/(?P<master>[^/?#]+)(?:/(?P<db>\d{1,5})?)?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:,\s]+)(?::(?P<port>\d{1,5}))?")

_SHAPE = "sentinel://:password@host:26379,host2:26379/<master name>[/db]"


@dataclass(frozen=True)
class Sentinels:
    """Where to ask for the master, and how to speak with it."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: dict[str, Any] | None = None
    """Options of TLS as redis-py calls them; None speaks without."""


def is_sentinel(url: str) -> bool:
    """Whether ``url`` names sentinels."""
    return url.startswith(("sentinel://", "sentinels://"))


def parse(url: str, shown: str) -> Sentinels:
    """What ``url`` says; ``shown`` is the same without its secrets, for a message.

    Raises:
        SettingsError: it is malformed.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise SettingsError(f"redis_url {shown} is no address of sentinels: write {_SHAPE}, its password %-encoded")
    hosts = []
    for text in found["hosts"].split(","):
        host = _HOST.fullmatch(text)
        port = int(host["port"] or DEFAULT_PORT) if host else 0
        if host is None or not 0 < port < 65536:
            raise SettingsError(f"redis_url {shown}: {text!r} is no host of a sentinel; write {_SHAPE}")
        hosts.append((host["host"].strip("[]"), port))
    return Sentinels(
        tuple(hosts),
        unquote(found["master"]),
        int(found["db"] or 0),
        unquote(found["user"] or "") or None,
        unquote(found["password"] or "") or None,
        _tls(found["scheme"], found["query"] or "", shown),
    )


class _Master(Patience, SentinelManagedConnection):
    pass


class _TlsMaster(Patience, SentinelManagedSSLConnection):
    pass


class _MasterPool(SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Connections to whatever the sentinels call the master."""

    async def aclose(self) -> None:
        """Close them, and those to the sentinels."""
        await super().aclose()
        for asked in self.sentinel_manager.sentinels:
            await asked.aclose()


class _Once(redis.retry.Retry):
    """No second try; Celery shows its transport's options to Flower, as JSON."""

    def __json__(self) -> str:
        return "once"


def pool(where: Sentinels, options: dict[str, Any]) -> redis.asyncio.BlockingConnectionPool:
    """Connections to the master; ``options`` are those of redis-py."""
    asking = {**ASKING, "retry": redis.asyncio.retry.Retry(NoBackoff(), 0), **_spoken(where)}
    return _MasterPool(  # type: ignore[no-untyped-call]
        where.master,
        Sentinel(where.hosts, sentinel_kwargs=asking),  # type: ignore[no-untyped-call]
        connection_class=_Master if where.tls is None else _TlsMaster,
        db=where.db,
        username=where.user,
        password=where.password,
        **options,
        **(where.tls or {}),
    )


def transport(where: Sentinels) -> dict[str, Any]:
    """The settings that have Celery find its broker in the same way."""
    secret = f"{quote(where.user or '', safe='')}:{quote(where.password, safe='')}@" if where.password else ""
    urls = [f"sentinel://{secret}{_bracketed(host)}:{port}/{where.db}" for host, port in where.hosts]
    asking = {**ASKING, "retry": _Once(NoBackoff(), 0), **_spoken(where)}
    options = {"master_name": where.master, "sentinel_kwargs": asking}
    return {"broker_url": ";".join(urls), "broker_transport_options": options, "broker_use_ssl": where.tls or False}


def _spoken(where: Sentinels) -> dict[str, Any]:
    return {} if where.tls is None else {"ssl": True, **where.tls}


def _tls(scheme: str, query: str, shown: str) -> dict[str, Any] | None:
    options: dict[str, Any] = dict(parse_qsl(query))
    unknown = set(options) - set(TLS_OPTIONS)
    if unknown or (options and scheme == "sentinel"):
        known = f"sentinels:// takes {', '.join(TLS_OPTIONS)}"
        raise SettingsError(f"redis_url {shown} has options that it does not take; sentinel:// takes none, {known}")
    if scheme == "sentinel":
        return None
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower() not in ("0", "false", "no")
    reqs = options.get("ssl_cert_reqs", "required")
    if reqs not in ("none", "optional", "required"):
        raise SettingsError(f"redis_url {shown}: ssl_cert_reqs is none, optional or required")
    return {**options, "ssl_cert_reqs": getattr(ssl, f"CERT_{reqs.upper()}")}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
