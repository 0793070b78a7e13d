"""Whatever a ToolServer answers, or does not: whose fault it is, and whether the tool ran."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from fleet_processes import free_port
from pydantic import SecretStr
from tool_server_process import Server

from toolfleet.config.settings import Settings
from toolfleet.config.tools import Context
from toolfleet.config.tools.web import WebSearchArguments
from toolfleet.workers.tools.base import NotRun, Shown, Stopped, Unanswered
from toolfleet.workers.tools.external import ToolServer
from toolfleet.workers.toolserver.connect import connect

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def client(url: str, token: str = "secret-of-the-server", connections: int = 4) -> AsyncIterator[ToolServer]:
    """A worker's side."""
    server = ToolServer(url, SecretStr(token), connections)
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """The URL of something that answers every POST in its own way."""
    app = web.Application()
    app.router.add_post("/{path}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def search(server: ToolServer, timeout: float = 30.0, trajectory: str = "t1") -> Shown:
    """Call ``web_search``."""
    return await server.execute("web_search", WebSearchArguments(query="x"), Context(trajectory, "c1", timeout))


async def test_a_tools_own_failure_is_no_failure_of_the_server(server: Server) -> None:
    async with client(server.url) as ours:
        shown = await search(ours)
    assert (shown.exit_code, shown.output) == (1, shown.error)
    assert "needs a search provider" in shown.output


async def test_nobody_there_is_provably_not_run(server: Server) -> None:
    async with client(f"http://127.0.0.1:{free_port()}") as ours:
        with pytest.raises(NotRun, match="cannot be reached") as caught:
            await search(ours)
    assert caught.value.again


async def test_a_wrong_token_is_not_run_and_not_tried_again(server: Server) -> None:
    async with client(server.url, token="wrong-secret") as ours:
        with pytest.raises(NotRun, match="answered 403: wrong token") as caught:
            await search(ours)
    assert not caught.value.again
    assert "wrong-secret" not in str(caught.value)


async def test_a_server_without_room_is_asked_again() -> None:
    async def full(_: web.Request) -> web.Response:
        return web.json_response({"detail": "no turn"}, status=503, headers={"Toolfleet-Executed": "no"})

    async with answering(full) as url, client(url) as ours:
        with pytest.raises(NotRun, match="503: no turn") as caught:
            await search(ours)
    assert caught.value.again


@pytest.mark.parametrize("status", [500, 502, 503, 504, 302])
async def test_a_broken_server_may_have_run_it(status: int) -> None:
    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>oops</html>")

    async with answering(broken) as url, client(url) as ours:
        with pytest.raises(Unanswered, match=str(status)):
            await search(ours)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"output": 3}', "null", "[" * 100_000], ids=str.__len__)
async def test_an_answer_that_is_none_may_have_run_it(text: str) -> None:
    async def odd(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    async with answering(odd) as url, client(url) as ours:
        with pytest.raises(Unanswered):
            await search(ours)


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 1_000_000)
                sent += 1
        except ConnectionError:
            return response

    async with answering(endless) as url, client(url) as ours:
        with pytest.raises(Unanswered, match="more than"):
            await search(ours)
    assert sent < 64


async def test_a_connection_that_breaks_after_the_call_was_sent_may_have_run_it() -> None:
    async def hangs_up(request: web.Request) -> web.Response:
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with answering(hangs_up) as url, client(url) as ours:
        with pytest.raises(Unanswered, match="broke"):
            await search(ours)


async def test_no_answer_by_the_deadline_may_have_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    monkeypatch.setattr("toolfleet.workers.tools.external.GRACE", 0.1)
    async with answering(never) as url, client(url) as ours:
        with pytest.raises(Unanswered, match="did not answer within"):
            await search(ours, timeout=0.1)


async def test_a_tool_that_the_server_stopped_ran_out_of_its_own_time() -> None:
    async def late(_: web.Request) -> web.Response:
        reply = {"success": False, "error": "timed out after 1 s", "metadata": {"timed_out": True}}
        return web.json_response(reply)

    async with answering(late) as url, client(url) as ours:
        with pytest.raises(Stopped, match="timed out after 1 s"):
            await search(ours)


async def test_connections_are_bounded_and_who_gets_none_in_time_was_not_run() -> None:
    asked, release = asyncio.Semaphore(0), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        asked.release()
        await release.wait()
        return web.json_response({"success": True, "output": "done"})

    async with answering(slow) as url, client(url, connections=2) as ours:
        held = [asyncio.create_task(search(ours)) for _ in range(2)]
        for _ in held:
            await asked.acquire()
        with pytest.raises(NotRun):
            await search(ours, timeout=0.2)
        release.set()
        assert [(await one).output for one in held] == ["done", "done"]


async def test_large_metadata_does_not_swell_the_result() -> None:
    async def talkative(_: web.Request) -> web.Response:
        return web.json_response({"success": True, "output": "o", "metadata": {"log": "x" * 100_000}})

    async with answering(talkative) as url, client(url) as ours:
        assert (await search(ours)).detail == {"metadata": "too large"}


async def test_the_end_of_a_trajectory_is_told_once_and_only_of_those_served_here() -> None:
    told: list[object] = []

    async def note(request: web.Request) -> web.Response:
        if request.path == "/release":
            told.append(await request.json())
        return web.json_response({"success": True, "output": "o"})

    async with answering(note) as url, client(url) as ours:
        for trajectory in ("t1", "t2"):
            await search(ours, trajectory=trajectory)
        await ours.left("t1", ended=True)
        await ours.left("t1", ended=True)
        await ours.left("t2", ended=False)
        await ours.left("t3", ended=True)
    assert told == [{"trajectory_id": "t1"}]


async def test_a_server_that_is_gone_does_not_keep_a_trajectory_from_ending() -> None:
    async with client(f"http://127.0.0.1:{free_port()}") as ours:
        with pytest.raises(NotRun):
            await search(ours)
        await ours.left("t1", ended=True)


async def test_a_server_in_the_workers_process_needs_no_address_and_no_token() -> None:
    ours = connect(Settings(tool_server_url="inprocess", tool_server_token=SecretStr("unused")))
    assert ours is not None
    try:
        assert "needs a search provider" in (await search(ours)).output
    finally:
        await ours.close()
