"""Where web tools may connect to: public addresses, those that are allowed, and nowhere else, by no way round."""

import asyncio
import gc
import ipaddress
import json
import warnings
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from integration.toolserver.site import ALLOWED, FORBIDDEN, Site, serving

from toolfleet.workers.toolserver.egress import Egress, Refused, public
from toolfleet.workers.toolserver.extract import extract


@pytest.fixture
def _collected() -> Iterator[None]:
    """httpcore leaves its connection to a proxy that refused it to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site of this machine."""
    async with serving() as running:
        yield running


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    """A gate that lets through to one address of this machine."""
    gate = Egress([ipaddress.ip_network(f"{ALLOWED}/32")])
    await gate.start()
    yield gate
    await gate.close()


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("168.63.129.16", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff0e::1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a9fe:a9fe::1", False),
    ],
)
def test_what_counts_as_public(address: str, is_public: bool) -> None:
    assert public(ipaddress.ip_address(address)) is is_public


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://93.184.216.34/",
        "data:text/html,hi",
        "javascript:alert(1)",
        "chrome://settings",
        "view-source:http://93.184.216.34/",
        "/etc/passwd",
        "http://",
        "http://[::1",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://127.0.0.2/",
        "http://2130706434/",
        "http://0x7f.2/",
        "http://0.0.0.0/",
        "http://user@169.254.169.254/",
        "http://93.184.216.34@169.254.169.254/",
        "http://10.0.0.1:99999/",
    ],
)
async def test_a_url_that_leads_elsewhere_is_refused_with_the_reason(egress: Egress, url: str) -> None:
    with pytest.raises(Refused):
        await egress.check(url)


@pytest.mark.parametrize("url", ["http://93.184.216.34/", "https://[2606:2800:220:1::1]/x", f"http://{ALLOWED}:8000/"])
async def test_public_and_allowed_addresses_pass(egress: Egress, url: str) -> None:
    await egress.check(url)


@pytest.mark.usefixtures("_collected")
async def test_the_proxy_carries_to_what_is_allowed_and_to_nothing_else(egress: Egress, site: Site) -> None:
    async with httpx.AsyncClient(proxy=egress.url, timeout=30) as client:
        assert "Welcome" in (await client.get(site.url())).text
        for host in (FORBIDDEN, "[::1]"):
            with pytest.raises(httpx.ProxyError):
                await client.get(site.url("/secret", host))
    assert site.visits == [f"{ALLOWED} /"]


@pytest.mark.usefixtures("_collected")
async def test_a_name_is_resolved_by_the_proxy_and_judged_by_its_address(site: Site) -> None:
    for network, passes in (("127.0.0.0/8", True), ("10.0.0.0/8", False)):
        gate = Egress([ipaddress.ip_network(network)])
        await gate.start()
        async with httpx.AsyncClient(proxy=gate.url, timeout=30) as client:
            if passes:
                assert (await client.get(site.url("/", "localhost"))).is_success
            else:
                with pytest.raises(httpx.ProxyError):
                    await client.get(site.url("/", "localhost"))
        await gate.close()


@pytest.mark.parametrize(
    "said",
    [b"", b"\x05", b"\x04\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
     b"\x05\x01\x00\x05\x01\x00\x09\x00\x00", b"\x05\x01\x00\x05\x01\x00\x03\x04\xff\xfe\xfd\xfc\x00\x50"],
)  # fmt: skip
async def test_who_does_not_speak_its_language_is_sent_away(egress: Egress, site: Site, said: bytes) -> None:
    port = int(egress.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 30)
    writer.close()
    async with httpx.AsyncClient(proxy=egress.url, timeout=30) as client:
        assert (await client.get(site.url())).is_success


class TestExtract:
    async def test_title_text_and_links_of_a_page(self, egress: Egress, site: Site) -> None:
        (found,) = (await extract([site.url()], egress, 30.0))["results"]
        assert (found["title"], found["error"], found["truncated"]) == ("Home", None, False)
        assert found["content"].startswith("Welcome")
        assert found["content"].count("keeps the outcomes") == 20
        assert "[Read on](/article)" in found["content"]
        assert "<" not in found["content"]

    @pytest.mark.parametrize("path", ["/empty", "/deep", "/xml", "/binary"])
    async def test_a_page_that_is_none_harms_nobody(self, egress: Egress, site: Site, path: str) -> None:
        (found,) = (await extract([site.url(path)], egress, 30.0))["results"]
        assert found["error"] is None

    async def test_each_url_has_a_result_in_its_place(self, egress: Egress, site: Site) -> None:
        urls = [site.url("/article"), site.url("/secret", FORBIDDEN), "file:///etc/passwd", site.url("/file.bin")]
        found = (await extract(urls, egress, 30.0))["results"]
        assert [one["url"] for one in found] == urls
        assert [bool(one["error"]) for one in found] == [False, True, True, True]
        assert "not a public address" in found[1]["error"]
        assert found[3]["error"] == "not a text but application/octet-stream"
        json.dumps(found)

    @pytest.mark.usefixtures("_collected")
    async def test_a_redirect_does_not_lead_past_the_gate(self, egress: Egress, site: Site) -> None:
        (found,) = (await extract([site.url("/redirect")], egress, 30.0))["results"]
        assert found["error"]
        assert site.visits == [f"{ALLOWED} /redirect"]

    async def test_a_large_page_is_cut(self, egress: Egress, site: Site) -> None:
        (found,) = (await extract([site.url("/large")], egress, 30.0))["results"]
        assert (found["error"], found["truncated"]) == (None, True)
        assert len(found["content"]) == 20_000
