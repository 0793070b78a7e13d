"""Addresses of sentinels: what they say, and what is said about those that say nothing."""

import ssl

import pytest

from toolfleet.config import connection, sentinel
from toolfleet.config.celery_app import make_app
from toolfleet.config.errors import SettingsError
from toolfleet.config.sentinel import Sentinels

HIDDEN = "hunter2"


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("sentinel://a/m", Sentinels((("a", 26379),), "m")),
        ("sentinel://a:1,b:2,c/m/", Sentinels((("a", 1), ("b", 2), ("c", 26379)), "m")),
        ("sentinel://[::1]:5,10.0.0.1/my-master/3", Sentinels((("::1", 5), ("10.0.0.1", 26379)), "my-master", 3)),
        ("sentinel://:p%40ss@a/m/1", Sentinels((("a", 26379),), "m", 1, None, "p@ss")),
        ("sentinel://me:pass@a,b/m", Sentinels((("a", 26379), ("b", 26379)), "m", 0, "me", "pass")),
        ("sentinels://a/m", Sentinels((("a", 26379),), "m", tls={"ssl_cert_reqs": ssl.CERT_REQUIRED})),
        (
            "sentinels://a/m?ssl_cert_reqs=none&ssl_check_hostname=false",
            Sentinels((("a", 26379),), "m", tls={"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}),
        ),
    ],
)
def test_what_an_address_says(url: str, meant: Sentinels) -> None:
    assert sentinel.parse(url, url) == meant


@pytest.mark.parametrize(
    "url",
    [
        f"sentinel://:{HIDDEN}@host",
        f"sentinel://:{HIDDEN}@host:26379/",
        f"sentinel://:{HIDDEN}@host:port/m",
        f"sentinel://:{HIDDEN}@host:99999/m",
        f"sentinel://:{HIDDEN}@host,/m",
        f"sentinel://:{HIDDEN}@/m",
        f"sentinel://:{HIDDEN}@host/m/db",
        f"sentinel://:{HIDDEN}/more@host/m",
        f"sentinel://:{HIDDEN}@more@host/m",
        f"sentinel://:{HIDDEN}@host/m?ssl_cert_reqs=none",
        f"sentinels://:{HIDDEN}@host/m?password={HIDDEN}",
        f"sentinels://:{HIDDEN}@host/m?ssl_cert_reqs=perhaps",
    ],
)
def test_one_that_says_nothing_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url") as caught:
        connection.client(url)
    assert HIDDEN not in str(caught.value)
    with pytest.raises(SettingsError):
        make_app(url, "test")


def test_a_password_does_not_show_in_what_is_printed_of_an_address() -> None:
    assert HIDDEN not in repr(sentinel.parse(f"sentinel://:{HIDDEN}@host/m", ""))
    assert connection.redacted(f"sentinel://:{HIDDEN}@a:1,b:2/m/0") == "sentinel://***@a:1,b:2/m/0"
