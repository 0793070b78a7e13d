"""A web site for browsers and other readers, on every address of loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

#: The address that tests allow, and one beside it that they do not.
ALLOWED, FORBIDDEN = "127.0.0.1", "127.0.0.2"

ARTICLE = "<p>" + "The runner keeps the outcomes of calls by their ids. " * 20 + "</p>"
#: Pages that are hardly any.
ODD = {
    "/empty": b"",
    "/deep": b"<div>" * 100_000,
    "/xml": b"<?xml version='1.0' encoding='utf-8'?><p>x</p>",
    "/binary": bytes(range(256)) * 100,
}


@dataclass
class Site:
    """Where it is, and who came."""

    port: int = 0
    visits: list[str] = field(default_factory=list)
    """``host path`` of each request."""
    listening: int = 0
    """Pages that hold a connection open."""

    def url(self, path: str = "/", host: str = ALLOWED) -> str:
        """The URL of a page."""
        return f"http://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Every page."""
        self.visits.append(f"{request.url.host} {request.path}")
        path = request.path
        if path == "/redirect":
            raise web.HTTPFound(self.url("/secret", FORBIDDEN))
        if path == "/slow":
            await asyncio.sleep(3600)
        if path == "/listen":
            return await self._listen(request)
        if path == "/file.bin":
            return web.Response(body=b"\x00" * 1000, content_type="application/octet-stream")
        if path in ODD:
            return web.Response(body=ODD[path], content_type="text/html")
        if path == "/visits":
            count = int(request.cookies.get("visits", "0")) + 1
            response = page("Visits", f"<p>visit {count}</p>")
            response.set_cookie("visits", str(count))
            return response
        bodies = {
            "/": f"<h1>Welcome</h1><a href='/article'>Read on</a><input aria-label='Name'>{ARTICLE}",
            "/article": f"<article><h1>Of runners</h1>{ARTICLE}</article><footer>imprint</footer>",
            "/large": "<p>many words</p>" * 4_000,
            "/popup": "<script>window.open('/listen-page'); document.write('<p>opened</p>')</script>",
            "/dialog": "<script>alert('stop'); confirm('really'); document.write('<p>went on</p>')</script>",
            "/listen-page": "<p>listening</p><script>fetch('/listen')</script>",
            "/nosy": f"""<p>nosy</p><img src='{self.url("/secret", FORBIDDEN)}'>
                <iframe src='{self.url("/secret", FORBIDDEN)}'></iframe>
                <script>
                  const tell = what => fetch('/told?' + what);
                  fetch('{self.url("/secret", FORBIDDEN)}', {{mode: 'no-cors'}})
                    .then(() => tell('in'), () => tell('out'));
                  new WebSocket('ws://{FORBIDDEN}:{self.port}/secret');
                </script>""",
        }
        return page(path.strip("/").title() or "Home", bodies.get(path, f"<p>{path}</p>"))

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.listening += 1
        try:
            while True:
                await response.write(b".")
                await asyncio.sleep(0.02)
        except ConnectionError:
            return response
        finally:
            self.listening -= 1


def page(title: str, body: str) -> web.Response:
    """A page of HTML."""
    head = f"<!doctype html><html><head><title>{title}</title></head>"
    return web.Response(text=f"{head}<body>{body}</body></html>", content_type="text/html")


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    """The site, for a while."""
    site = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    site.port = runner.addresses[0][1]
    try:
        yield site
    finally:
        await runner.cleanup()
