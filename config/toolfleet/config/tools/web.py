"""The web: ``web_search``, ``web_extract``, ``browser_navigate`` and ``browser_snapshot``, at the ToolServer."""

from pydantic import Field

from toolfleet.config.tools.base import Arguments, Definition

#: Pages that one ``web_extract`` reads.
MOST_URLS = 5


class WebSearchArguments(Arguments):
    """Arguments of ``web_search``."""

    query: str = Field(min_length=1, max_length=2000)


class WebExtractArguments(Arguments):
    """Arguments of ``web_extract``."""

    urls: list[str] = Field(min_length=1, max_length=MOST_URLS)


class BrowserNavigateArguments(Arguments):
    """Arguments of ``browser_navigate``."""

    url: str = Field(min_length=1, max_length=8000)


class BrowserSnapshotArguments(Arguments):
    """Arguments of ``browser_snapshot``."""

    full: bool = False
    """Five times as much of a long page."""


WEB_SEARCH = Definition(
    name="web_search",
    description="Search the web. Returns titles, addresses and short descriptions of what was found.",
    arguments=WebSearchArguments,
    where="external",
)
WEB_EXTRACT = Definition(
    name="web_extract",
    description=f"Read the text of up to {MOST_URLS} web pages, with the addresses of their links.",
    arguments=WebExtractArguments,
    where="external",
)
BROWSER_NAVIGATE = Definition(
    name="browser_navigate",
    description="Open a web page in your browser. It stays open for browser_snapshot.",
    arguments=BrowserNavigateArguments,
    where="external",
)
BROWSER_SNAPSHOT = Definition(
    name="browser_snapshot",
    description="See the open page as an outline of its headings, text, links and fields.",
    arguments=BrowserSnapshotArguments,
    where="external",
)
#: All of them.
WEB = (WEB_SEARCH, WEB_EXTRACT, BROWSER_NAVIGATE, BROWSER_SNAPSHOT)
