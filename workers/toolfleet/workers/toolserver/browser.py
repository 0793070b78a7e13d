"""A browser for trajectories: headless Chromium, one page each, closed with the trajectory or when nobody uses it."""

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser as Chromium
from playwright.async_api import BrowserContext, Page, Playwright, async_playwright
from playwright.async_api import Error as PlaywrightError

from toolfleet.config.tools import ToolFailed
from toolfleet.workers.toolserver.egress import Egress
from toolfleet.workers.turns import NoTurn

log = logging.getLogger(__name__)

#: Names under which distributions install Chromium.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Pages open at once; a trajectory beyond them is told so.
PAGES = 16
#: Seconds without a call after which a page is closed.
IDLE = 300.0
#: Characters of a snapshot, of a short and of a full one.
SHORT, FULL = 8_000, 40_000

_NO_PAGE = "no page is open: call browser_navigate first. A page closes when it is not used for a while"


@dataclass
class Tab:
    """The page of one trajectory."""

    context: BrowserContext
    page: Page
    used: float = field(default_factory=time.monotonic)
    busy: bool = False
    crashed: bool = False
    settled: bool = True
    """No page is on its way: the last one was reached."""
    replacing: bool = False


class Browser:
    """Starts Chromium when it is first needed, and again when it has died."""

    def __init__(self, egress: Egress, *, pages: int = PAGES, idle: float = IDLE, program: Path | None = None) -> None:
        self._egress = egress
        self._pages = pages
        self._idle = idle
        self._program = program
        self._playwright: Playwright | None = None
        self._chromium: Chromium | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        """Its files: a Chromium that dies leaves some."""
        self._starting = asyncio.Lock()
        self._tabs: dict[str, Tab] = {}
        self._lines: dict[str, asyncio.Lock] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def open(self) -> int:
        """How many pages there are."""
        return len(self._tabs)

    async def navigate(self, trajectory_id: str, url: str) -> dict[str, Any]:
        """Open ``url`` in the trajectory's page.

        Raises:
            ToolFailed: it did not open; the message says why.
            NoTurn: there are too many pages.
        """
        await self._egress.check(url)
        async with self._turn(trajectory_id):
            tab = self._tabs.get(trajectory_id) or await self._open(trajectory_id)
            async with self._at_work(trajectory_id, tab):
                if not tab.settled:
                    await self._replace(tab)
                tab.settled = False
                response = await tab.page.goto(url, wait_until="domcontentloaded", timeout=0)
                tab.settled = True
                status = response.status if response else None
                return {"success": True, "url": tab.page.url, "title": await tab.page.title(), "status": status}

    async def snapshot(self, trajectory_id: str, *, full: bool) -> dict[str, Any]:
        """What the trajectory's page shows, as an outline of roles, names and text.

        Raises:
            ToolFailed: there is no page.
        """
        async with self._turn(trajectory_id):
            tab = self._tabs.get(trajectory_id)
            if tab is None:
                raise ToolFailed(_NO_PAGE)
            async with self._at_work(trajectory_id, tab):
                outline = await tab.page.locator("body").aria_snapshot(timeout=0)
                most = FULL if full else SHORT
                return {
                    "success": True,
                    "url": tab.page.url,
                    "title": await tab.page.title(),
                    "snapshot": outline[:most],
                    "truncated": len(outline) > most,
                }

    async def release(self, trajectory_id: str) -> None:
        """Close the trajectory's page. Idempotent."""
        tab = self._tabs.pop(trajectory_id, None)
        if tab is not None:
            with contextlib.suppress(PlaywrightError):
                await tab.context.close()

    async def close(self) -> None:
        """Close every page, and Chromium."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for trajectory_id in tuple(self._tabs):
            await self.release(trajectory_id)
        with contextlib.suppress(PlaywrightError):
            if self._chromium is not None:
                await self._chromium.close()
        if self._playwright is not None:
            await self._playwright.stop()
        self._clear()

    @contextlib.asynccontextmanager
    async def _turn(self, trajectory_id: str) -> AsyncIterator[None]:
        """The calls of one trajectory use its page one after another."""
        line = self._lines.setdefault(trajectory_id, asyncio.Lock())
        try:
            async with line:
                yield
        finally:
            if trajectory_id not in self._tabs and not line.locked():
                self._lines.pop(trajectory_id, None)

    @contextlib.asynccontextmanager
    async def _at_work(self, trajectory_id: str, tab: Tab) -> AsyncIterator[None]:
        tab.busy = True
        try:
            yield
        except PlaywrightError as error:
            if tab.crashed or tab.page.is_closed():
                await self.release(trajectory_id)
                raise ToolFailed("the page has crashed; navigate again") from None
            raise ToolFailed(_reason(error)) from None
        finally:
            tab.busy, tab.used = False, time.monotonic()

    async def _open(self, trajectory_id: str) -> Tab:
        if len(self._tabs) >= self._pages:
            raise NoTurn(f"all {self._pages} pages of the browser are in use")
        chromium = await self._started()
        context = await chromium.new_context(accept_downloads=False, service_workers="block")
        try:
            tab = Tab(context, await context.new_page())
        except BaseException:
            await context.close()
            raise
        # One page for each trajectory: what it opens beside it would never be closed.
        context.on("page", lambda page: None if tab.replacing else self._beside(_close(page)))
        tab.page.on("crash", lambda _: setattr(tab, "crashed", True))
        self._tabs[trajectory_id] = tab
        return tab

    async def _replace(self, tab: Tab) -> None:
        """Give a trajectory a new page: what is still on its way in the old one would break off the next."""
        await _close(tab.page)
        tab.replacing = True
        try:
            tab.page = await tab.context.new_page()
        finally:
            tab.replacing = False
        tab.page.on("crash", lambda _: setattr(tab, "crashed", True))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _clear(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    async def _started(self) -> Chromium:
        async with self._starting:
            if self._chromium is not None and self._chromium.is_connected():
                return self._chromium
            self._tabs.clear()
            program = self._program or find_chromium()
            if program is None:
                raise ToolFailed("there is no Chromium on the tool server: apt install chromium")
            if self._playwright is None:
                self._playwright = await async_playwright().start()
            self._clear()
            self._scratch = tempfile.TemporaryDirectory(prefix="toolfleet-chromium-", ignore_cleanup_errors=True)
            self._chromium = await self._playwright.chromium.launch(
                executable_path=program,
                env={**os.environ, "TMPDIR": self._scratch.name},
                # Chromium's own sandbox refuses to work for root.
                chromium_sandbox=os.geteuid() != 0,
                proxy={"server": self._egress.url, "bypass": "<-loopback>"},
                args=[
                    # Nothing may leave but through the proxy: no look-up of names, no media over UDP.
                    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
                    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
                    "--disable-dev-shm-usage",
                ],
            )
            if self._sweeper is None:
                self._sweeper = asyncio.create_task(self._sweep())
            return self._chromium

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle, 10.0))
            limit = time.monotonic() - self._idle
            for trajectory_id, tab in tuple(self._tabs.items()):
                if not tab.busy and tab.used < limit:
                    await self.release(trajectory_id)


def find_chromium() -> Path | None:
    """The browser of this machine."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    return Path(found) if found else None


async def _close(page: Page) -> None:
    with contextlib.suppress(PlaywrightError):
        await page.close()


def _reason(error: PlaywrightError) -> str:
    """The sentence in an error; what follows is a log of attempts."""
    first = error.message.split("\n", 1)[0]
    if "ERR_SOCKS_CONNECTION_FAILED" in first:
        return f"{first}: the host does not answer, or is not one that the tool server may connect to"
    return first
