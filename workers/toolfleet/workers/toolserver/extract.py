"""The text of web pages, read without a browser."""

import asyncio
from typing import Any

import httpx
import lxml.etree
import lxml.html
from inscriptis.html_engine import Inscriptis
from inscriptis.model.config import ParserConfig

from toolfleet.workers.toolserver.egress import Egress, Refused

#: Bytes of a page that are read; what follows is left out.
LARGEST_PAGE = 2 * 1024 * 1024
#: Characters of a page's text.
LONGEST_TEXT = 20_000
#: Redirects that are followed, each through the same gate.
REDIRECTS = 5


async def extract(urls: list[str], egress: Egress, timeout: float) -> dict[str, Any]:
    """``{"results": [{"url", "title", "content", "error"}]}``, a result for each URL, in their order.

    ``timeout`` is in seconds and for each page.
    """
    async with httpx.AsyncClient(
        proxy=egress.url, timeout=timeout, follow_redirects=True, max_redirects=REDIRECTS, trust_env=False
    ) as client:
        return {"results": await asyncio.gather(*(_page(url, client, egress) for url in urls))}


async def _page(url: str, client: httpx.AsyncClient, egress: Egress) -> dict[str, Any]:
    try:
        await egress.check(url)
        async with client.stream("GET", url) as response:
            response.raise_for_status()
            kind = response.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
            if not kind.startswith("text/") and kind != "application/xhtml+xml":
                return _result(url, error=f"not a text but {kind[:100]}")
            raw, whole = await _read(response)
            charset = response.charset_encoding or "utf-8"
    except (Refused, ConnectionError, httpx.HTTPError, httpx.InvalidURL) as error:
        return _result(url, error=f"{error}"[:500] or type(error).__name__)
    try:
        text = raw.decode(charset, "replace")
    except LookupError:
        text = raw.decode("utf-8", "replace")
    if kind not in ("text/html", "application/xhtml+xml"):
        return _result(url, content=text, cut=not whole)
    title, content = await asyncio.to_thread(_text_of, text)
    return _result(url, title=title, content=content, cut=not whole)


async def _read(response: httpx.Response) -> tuple[bytes, bool]:
    """The beginning of a page, and whether that is all of it."""
    raw = bytearray()
    async for chunk in response.aiter_bytes(64 * 1024):
        raw += chunk
        if len(raw) > LARGEST_PAGE:
            return bytes(raw[:LARGEST_PAGE]), False
    return bytes(raw), True


def _text_of(page: str) -> tuple[str, str]:
    """Title and text of a page of HTML; empty where it has none."""
    try:
        tree = lxml.html.document_fromstring(page)
    except (lxml.etree.ParserError, ValueError):  # an empty page; one that declares an encoding in XML's way
        return "", ""
    title = " ".join((tree.findtext(".//title") or "").split())
    return title, Inscriptis(tree, ParserConfig(display_links=True)).get_text().strip()


def _result(
    url: str, *, title: str = "", content: str = "", error: str | None = None, cut: bool = False
) -> dict[str, Any]:
    cut |= len(content) > LONGEST_TEXT
    return {"url": url, "title": title, "content": content[:LONGEST_TEXT], "truncated": cut, "error": error}
