"""What a ToolServer has: the web tools whose extras are installed, and the tools of its user's modules."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from toolfleet.config.settings import Settings
from toolfleet.config.tools import Context, own_tools
from toolfleet.config.tools.web import (
    BROWSER_NAVIGATE,
    BROWSER_SNAPSHOT,
    WEB_EXTRACT,
    WEB_SEARCH,
    BrowserNavigateArguments,
    BrowserSnapshotArguments,
    WebExtractArguments,
)
from toolfleet.workers.toolserver.egress import Egress
from toolfleet.workers.toolserver.host import Host, Hosted

_NO_PROVIDER = (
    "web_search needs a search provider, and this ToolServer has none: write a function with "
    "@tool(where='external', name='web_search') and name its module in the setting tools"
)
_NO_EXTRA = "this ToolServer lacks what {} needs: pip install 'toolfleet[browser]'"


@asynccontextmanager
async def hosting(settings: Settings) -> AsyncIterator[Host]:
    """The host of a ToolServer with these settings, for as long as it lives."""
    mine = [Hosted.of(made) for made in own_tools(settings) if made.definition.where == "external"]
    async with AsyncExitStack() as life:
        egress = Egress(settings.tool_server_allow)
        await egress.start()
        life.push_async_callback(egress.close)
        tools = [*_extract(egress), *_browser(egress, life)]
        here = {hosted.definition.name for hosted in mine}
        tools = [*mine, *(hosted for hosted in tools if hosted.definition.name not in here)]
        here |= {hosted.definition.name for hosted in tools}
        absent = {WEB_SEARCH.name: _NO_PROVIDER}
        absent |= {d.name: _NO_EXTRA.format(d.name) for d in (WEB_EXTRACT, BROWSER_NAVIGATE, BROWSER_SNAPSHOT)}
        absent = {name: why for name, why in absent.items() if name not in here}
        yield Host(tools, settings.tool_server_concurrency, absent)


def _extract(egress: Egress) -> list[Hosted]:
    if importlib.util.find_spec("inscriptis") is None:
        return []
    from toolfleet.workers.toolserver.extract import extract

    async def perform(arguments: WebExtractArguments, context: Context) -> object:
        return await extract(arguments.urls, egress, context.timeout)

    return [Hosted(WEB_EXTRACT, perform)]


def _browser(egress: Egress, life: AsyncExitStack) -> list[Hosted]:
    if importlib.util.find_spec("playwright") is None:
        return []
    from toolfleet.workers.toolserver.browser import Browser

    browser = Browser(egress)
    life.push_async_callback(browser.close)

    async def navigate(arguments: BrowserNavigateArguments, context: Context) -> object:
        return await browser.navigate(context.trajectory_id or "", arguments.url)

    async def snapshot(arguments: BrowserSnapshotArguments, context: Context) -> object:
        return await browser.snapshot(context.trajectory_id or "", full=arguments.full)

    return [
        Hosted(BROWSER_NAVIGATE, navigate, release=browser.release),
        Hosted(BROWSER_SNAPSHOT, snapshot),
    ]
