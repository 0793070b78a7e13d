"""The browser of a ToolServer, on a site of this machine: one page a trajectory, bounded, and kept where it may go."""

import asyncio
import importlib.util
import ipaddress
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from fleet_processes import wait_until, worker
from integration.toolserver.site import ALLOWED, FORBIDDEN, Site, serving
from services import missing
from tool_server_process import tool_server

from toolfleet.config.settings import Settings
from toolfleet.config.state import FleetState
from toolfleet.config.tools import ToolFailed
from toolfleet.producer import Fleet
from toolfleet.workers.toolserver.egress import Egress, Refused
from toolfleet.workers.turns import NoTurn

if TYPE_CHECKING:
    from toolfleet.workers.toolserver.browser import Browser

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    """A site of this machine."""
    async with serving() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def egress() -> AsyncIterator[Egress]:
    """A gate that lets through to one address of this machine."""
    gate = Egress([ipaddress.ip_network(f"{ALLOWED}/32")])
    await gate.start()
    yield gate
    await gate.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(egress: Egress) -> AsyncIterator["Browser"]:
    """A browser that the tests of this module share."""
    running = make(egress)
    yield running
    await running.close()


@pytest.fixture(autouse=True)
def _come_fresh(site: Site) -> None:
    site.visits.clear()


def make(egress: Egress, **limits: Any) -> "Browser":
    """A browser."""
    if importlib.util.find_spec("playwright") is None:
        missing("playwright: pip install '.[browser]'")
    from toolfleet.workers.toolserver.browser import Browser, find_chromium

    if find_chromium() is None:
        missing("chromium")
    return Browser(egress, **limits)


async def until(fact: Any) -> None:
    """Wait for a fact, while the site goes on serving."""
    await asyncio.to_thread(wait_until, fact)


async def test_a_page_is_opened_and_seen_as_an_outline(browser: "Browser", site: Site) -> None:
    opened = await browser.navigate("t1", site.url())
    assert opened == {"success": True, "url": site.url(), "title": "Home", "status": 200}
    seen = await browser.snapshot("t1", full=False)
    assert (seen["url"], seen["title"], seen["truncated"]) == (site.url(), "Home", False)
    for part in ('heading "Welcome"', 'link "Read on"', 'textbox "Name"', "keeps the outcomes"):
        assert part in seen["snapshot"]
    json.dumps(seen)


async def test_trajectories_share_nothing_and_each_keeps_what_is_its_own(browser: "Browser", site: Site) -> None:
    counts = []
    for trajectory in ("t1", "t2", "t1"):
        await browser.navigate(trajectory, site.url("/visits"))
        counts.append((await browser.snapshot(trajectory, full=False))["snapshot"])
    assert ["visit 1" in counts[0], "visit 1" in counts[1], "visit 2" in counts[2]] == [True] * 3


async def test_without_a_page_there_is_nothing_to_see(browser: "Browser") -> None:
    with pytest.raises(ToolFailed, match="call browser_navigate first"):
        await browser.snapshot("never", full=False)


async def test_a_released_page_is_gone_and_stops_working(browser: "Browser", site: Site) -> None:
    await browser.navigate("t3", site.url("/listen-page"))
    await until(lambda: site.listening == 1)
    await browser.release("t3")
    await browser.release("t3")
    await until(lambda: site.listening == 0)
    with pytest.raises(ToolFailed, match="no page is open"):
        await browser.snapshot("t3", full=False)


async def test_a_page_that_opens_another_has_it_closed(browser: "Browser", site: Site) -> None:
    await browser.navigate("t1", site.url("/popup"))
    assert "opened" in (await browser.snapshot("t1", full=False))["snapshot"]
    await until(lambda: site.listening == 0)
    assert browser.open <= 3


async def test_a_dialog_holds_nobody_up(browser: "Browser", site: Site) -> None:
    await browser.navigate("t1", site.url("/dialog"))
    assert "went on" in (await browser.snapshot("t1", full=False))["snapshot"]


async def test_a_download_is_told_and_not_made(browser: "Browser", site: Site) -> None:
    with pytest.raises(ToolFailed, match=r"ownload|ERR_ABORTED"):
        await browser.navigate("t1", site.url("/file.bin"))
    assert (await browser.navigate("t1", site.url()))["success"]


@pytest.mark.parametrize(("full", "most"), [(False, 8_000), (True, 40_000)])
async def test_a_snapshot_of_a_large_page_is_cut(browser: "Browser", site: Site, full: bool, most: int) -> None:
    await browser.navigate("t1", site.url("/large"))
    seen = await browser.snapshot("t1", full=full)
    assert (len(seen["snapshot"]), seen["truncated"]) == (most, True)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://169.254.169.254/", "chrome://version", "about:blank"])
async def test_it_does_not_go_where_it_must_not(browser: "Browser", url: str) -> None:
    with pytest.raises(Refused):
        await browser.navigate("t1", url)


async def test_neither_a_redirect_nor_a_page_leads_past_the_gate(browser: "Browser", site: Site) -> None:
    with pytest.raises(ToolFailed, match="not one that the tool server may connect to"):
        await browser.navigate("t1", site.url("/redirect"))
    await browser.navigate("t1", site.url("/nosy"))
    await until(lambda: f"{ALLOWED} /told" in site.visits)
    assert not [visit for visit in site.visits if visit.startswith(FORBIDDEN)]


async def test_a_page_that_failed_does_not_break_the_next_one(browser: "Browser", site: Site) -> None:
    for _ in range(10):
        with pytest.raises(ToolFailed, match="ERR_SOCKS_CONNECTION_FAILED"):
            await browser.navigate("t1", site.url("/redirect"))
        assert (await browser.navigate("t1", site.url()))["title"] == "Home"


async def test_a_page_that_never_comes_can_be_given_up(browser: "Browser", site: Site) -> None:
    slow = asyncio.create_task(browser.navigate("t1", site.url("/slow")))
    await until(lambda: f"{ALLOWED} /slow" in site.visits)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert (await browser.navigate("t1", site.url()))["title"] == "Home"


async def test_pages_are_bounded_and_come_free(egress: Egress, site: Site) -> None:
    small = make(egress, pages=1)
    try:
        await small.navigate("t1", site.url())
        with pytest.raises(NoTurn, match="all 1 pages"):
            await small.navigate("t2", site.url())
        await small.release("t1")
        await asyncio.gather(*(small.navigate("t2", site.url()) for _ in range(3)))
        assert small.open == 1
    finally:
        await small.close()


async def test_a_page_that_nobody_uses_is_closed(egress: Egress, site: Site) -> None:
    hasty = make(egress, idle=0.1)
    try:
        await hasty.navigate("t1", site.url())
        await until(lambda: hasty.open == 0)
        with pytest.raises(ToolFailed, match="A page closes when it is not used for a while"):
            await hasty.snapshot("t1", full=False)
    finally:
        await hasty.close()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of this test alone, with a path that leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


@pytest.mark.parametrize("which", ["--type=renderer", ""], ids=["a page", "all of it"])
async def test_after_its_death_it_starts_again_and_says_what_is_gone(
    egress: Egress, site: Site, which: str, temporary: Path
) -> None:
    """And what it has left is removed: Chromium does that only as long as it lives."""
    mortal = make(egress)
    try:
        await mortal.navigate("t1", site.url())
        kill_chromium(which)
        with pytest.raises(ToolFailed, match=r"navigate again|call browser_navigate first"):
            await mortal.snapshot("t1", full=False)
        assert (await mortal.navigate("t1", site.url()))["success"]
        assert "Welcome" in (await mortal.snapshot("t1", full=False))["snapshot"]
    finally:
        await mortal.close()
    assert not list(temporary.iterdir())


async def test_nothing_is_left_when_it_is_closed(egress: Egress, site: Site) -> None:
    before = set(chromium_processes(""))
    short = make(egress)
    await short.navigate("t1", site.url())
    assert set(chromium_processes("")) - before
    await short.close()
    await until(lambda: not set(chromium_processes("")) - before)


async def test_a_trajectorys_page_closes_with_it(redis_url: str, settings: Settings, site: Site) -> None:
    """Through a fleet and a ToolServer of their own."""
    make(Egress())
    state: FleetState
    with tool_server(TOOLFLEET_TOOL_SERVER_ALLOW=f'["{ALLOWED}/32"]') as server:
        env = {"TOOLFLEET_TOOL_SERVER_URL": server.url, "TOOLFLEET_TOOL_SERVER_TOKEN": server.token}
        with worker("w1", redis_url, **env):
            async with Fleet.connect(settings) as fleet:
                state = fleet.state
                while not await state.workers():
                    await asyncio.sleep(0.02)
                async with fleet.trajectory("t1") as t:
                    r = await t.call("browser_navigate", {"url": site.url("/listen-page")})
                    assert json.loads(r.output)["title"] == "Listen-Page", r
                    await until(lambda: site.listening == 1)
                    seen = await t.call("browser_snapshot", {})
                    assert "listening" in json.loads(seen.output)["snapshot"]
                    refused = await t.call("browser_navigate", {"url": site.url("/", FORBIDDEN)})
                    assert (refused.ok, refused.status.value, refused.exit_code) == (False, "ok", 1)
                await until(lambda: site.listening == 0)


def chromium_processes(kind: str) -> list[int]:
    """Processes of Chromium that descend from this one: of a ``kind``, or the main ones."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "chromium" in command and (kind in command if kind else "--type=" not in command) and _is_mine(folder):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def kill_chromium(kind: str) -> None:
    """Kill them."""
    for pid in chromium_processes(kind):
        os.kill(pid, signal.SIGKILL)


def _is_mine(folder: Path) -> bool:
    pid = int(folder.name)
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
