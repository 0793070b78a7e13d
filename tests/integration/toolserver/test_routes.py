"""What a ToolServer answers: the routes, shapes and refusals of its predecessor (B6)."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fleet_processes import process, wait_until
from tool_server_process import Server, tool_server


def test_health_needs_no_token(server: Server) -> None:
    for path in ("/", "/health"):
        assert server.ask(path, token="")[:2] == (200, {"status": "ok"})


def test_tools_are_listed_as_function_tools(server: Server) -> None:
    status, listed, _ = server.ask("/tools")
    by_name = {tool["function"]["name"]: tool["function"] for tool in listed["tools"]}
    assert status == 200
    assert {"look_up", "answer", "wait"} <= set(by_name)
    assert "add" not in by_name, "a worker's tool is none of the server's"
    parameters = by_name["look_up"]["parameters"]["properties"]
    assert {"query", "most"} <= set(parameters)
    assert {"task_id", "slot_id", "search"}.isdisjoint(parameters), "what the carrier sets is no model's to see"


@pytest.mark.parametrize("path", ["/tools", "/execute", "/release"])
def test_who_has_no_token_or_a_wrong_one_is_not_let_in(server: Server, path: str) -> None:
    body = None if path == "/tools" else {"tool": {"name": "answer"}, "trajectory_id": "t1"}
    status, said, headers = server.ask(path, body, token="")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert "Bearer" in said["detail"]
    assert server.ask(path, body, token="wrong")[0] == 403
    assert server.ask(path, body, token="sécret")[0] == 403


def test_a_reply_has_the_shape_of_the_predecessors(server: Server) -> None:
    reply = server.run("look_up", {"query": "x", "most": 2}, trajectory_id="t1", timeout_s=30)
    assert set(reply) == {"success", "output", "error", "metadata", "uniq_id"}
    assert (reply["success"], reply["error"], reply["uniq_id"]) == (True, "", "u1")
    assert json.loads(reply["output"]) == {"found": ["x", "x"], "task": "t1", "slot": None}


def test_what_the_carrier_says_reaches_only_tools_that_have_a_parameter_for_it(server: Server) -> None:
    reply = server.run("look_up", {"query": "x"}, trajectory_id="t1", slot_id="s7", container_addr="http://c")
    assert json.loads(reply["output"])["slot"] == "s7"
    assert server.run("answer", {"value": 3}, trajectory_id="t1", slot_id="s7")["output"] == "3"


@pytest.mark.parametrize("name", ["task_id", "slot_id", "trajectory_id", "search"])
def test_a_model_cannot_say_who_it_is(server: Server, name: str) -> None:
    reply = server.run("look_up", {"query": "x", name: "another"}, trajectory_id="t1")
    assert not reply["success"]
    assert f"{name}: Extra inputs are not permitted" in reply["error"]


@pytest.mark.parametrize(
    ("value", "success", "output", "error"),
    [
        ("text", True, "text", ""),
        ({"a": 1}, True, '{"a": 1}', ""),
        ({"error": "no such page"}, False, '{"error": "no such page"}', "no such page"),
        ('{"error": "as text"}', False, '{"error": "as text"}', "as text"),
        ({"error": None, "a": 1}, True, '{"error": null, "a": 1}', ""),
        ({"error": {"code": 1}}, False, '{"error": {"code": 1}}', '{"code": 1}'),
        ('{"error": ', True, '{"error": ', ""),
        ([1, "ü"], True, '[1, "ü"]', ""),
        (None, True, "null", ""),
        ("\ud800", True, "?", ""),
    ],
)
def test_an_answer_with_an_error_is_a_failure(
    server: Server, value: object, success: bool, output: str, error: str
) -> None:
    reply = server.run("answer", {"value": value})
    assert (reply["success"], reply["output"], reply["error"]) == (success, output, error)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("lok_up", {}, "unknown tool 'lok_up'; available: "),
        ("lok_up", {}, "Did you mean 'look_up'?"),
        ("look_up", {}, "query: Field required"),
        ("look_up", {"query": 1}, "query: Input should be a valid string"),
        ("web_search", {"query": "x"}, "web_search needs a search provider"),
        ("exits", {}, "SystemExit: 7"),
    ],
)
def test_what_cannot_run_is_a_reply_that_says_why(
    server: Server, name: str, arguments: dict[str, object], says: str
) -> None:
    reply = server.run(name, arguments)
    assert not reply["success"]
    assert says in reply["error"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'{"tool": {"name": "answer"}, "timeout_s": -1}', 422),
        (b'{"tool": {"name": "answer"}, "timeout_s": NaN}', 422),
        (b'{"tool": {"name": ""}}', 422),
        (b'{"tool": {"name": "answer", "arguments": ' + b"[" * 100_000 + b"}}", 400),
        (b"\xff\xfe", 422),
        (b'{"tool": {"name": "' + b"x" * 9_000_000 + b'"}}', 413),
    ],
    ids=["empty", "cut", "list", "negative", "nan", "nameless", "deep", "binary", "huge"],
)
def test_a_body_that_is_no_call_is_refused(server: Server, raw: bytes, status: int) -> None:
    found, said, _ = server.ask("/execute", raw=raw)
    assert found == status, said
    assert len(said["detail"]) < 3000


def test_a_body_without_end_is_refused_though_it_does_not_say_how_long_it_is(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        said: list[bytes] = []
        reader = threading.Thread(target=lambda: said.append(connection.recv(65536)))
        reader.start()
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        try:
            for _ in range(12):
                connection.sendall(chunk)
        except OSError:
            pass  # it hung up on us, which is as good
        reader.join(30)
    assert b" 413 " in said[0].split(b"\r\n")[0]


def test_a_tool_is_stopped_at_the_deadline(server: Server, tmp_path: Path) -> None:
    reply = server.run("wait", {"path": str(tmp_path / "runs"), "until": str(tmp_path / "never")}, timeout_s=1)
    assert (reply["success"], reply["error"], reply["metadata"]) == (False, "timed out after 1 s", {"timed_out": True})
    wait_until(lambda: (tmp_path / "runs").read_text() == "xstopped")


def test_whoever_hangs_up_has_the_tool_stopped(server: Server, tmp_path: Path) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    arguments = {"path": str(tmp_path / "runs"), "until": str(tmp_path / "never")}
    body = json.dumps({"tool": {"name": "wait", "arguments": arguments}, "timeout_s": 600}).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
        connection.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        wait_until(lambda: (tmp_path / "runs").exists())
    wait_until(lambda: (tmp_path / "runs").read_text() == "xstopped")


@pytest.mark.parametrize("name", ["wait", "block"])
def test_no_more_run_at_once_than_the_limit_and_no_more_wait_than_there_is_room(
    server: Server, tmp_path: Path, name: str
) -> None:
    runs, until = tmp_path / "runs", tmp_path / "go"
    body = {"tool": {"name": name, "arguments": {"path": str(runs), "until": str(until)}}, "timeout_s": 60}
    with ThreadPoolExecutor(40) as pool:
        calls = [pool.submit(server.ask, "/execute", body) for _ in range(40)]
        # Two run, 32 wait: the six others are told at once that they were not run.
        wait_until(lambda: sum(call.done() for call in calls) == 6)
        refused = [call.result() for call in calls if call.done()]
        assert {(status, headers["toolfleet-executed"]) for status, _, headers in refused} == {(503, "no")}
        assert runs.read_text() == "xx"
        until.touch()
        replies = [call.result() for call in calls]
    assert [status for status, _, _ in replies].count(200) == 34
    assert runs.read_text() == "x" * 34


def test_a_call_whose_turn_does_not_come_before_its_deadline_is_not_run(server: Server, tmp_path: Path) -> None:
    runs, until = tmp_path / "runs", tmp_path / "go"
    body = {"tool": {"name": "block", "arguments": {"path": str(runs), "until": str(until)}}, "timeout_s": 60}
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(server.ask, "/execute", body) for _ in range(2)]
        wait_until(lambda: runs.exists() and runs.read_text() == "xx")
        late = {"tool": {"name": "answer", "arguments": {"value": 1}}, "timeout_s": 1}
        status, said, headers = server.ask("/execute", late)
        assert (status, headers["toolfleet-executed"]) == (503, "no")
        assert said["detail"] == "no turn came before the deadline"
        until.touch()
        assert [call.result()[0] for call in calls] == [200, 200]


def test_a_thread_that_hangs_keeps_its_turn_after_its_deadline(server: Server, tmp_path: Path) -> None:
    runs, until = tmp_path / "runs", tmp_path / "go"
    arguments = {"path": str(runs), "until": str(until)}
    for _ in range(2):
        assert server.run("block", arguments, timeout_s=1)["metadata"] == {"timed_out": True}
    late = {"tool": {"name": "answer", "arguments": {"value": 1}}, "timeout_s": 1}
    assert server.ask("/execute", late)[0] == 503
    until.touch()
    assert server.run("answer", {"value": 1}, timeout_s=60)["output"] == "1"


def test_the_end_of_a_trajectory_is_accepted_whether_or_not_it_is_known(server: Server) -> None:
    assert server.ask("/release", {"trajectory_id": "never-seen"})[:2] == (200, {"status": "ok"})


def test_without_a_token_it_asks_for_none() -> None:
    with tool_server(token="") as open_server:
        assert open_server.run("answer", {"value": 1})["output"] == "1"


def test_the_variables_of_the_predecessor_go_on_working(tmp_path: Path) -> None:
    old = "token-of-old"
    with tool_server(token="", TOOL_SERVER_TOKEN=old, TOOL_SERVER_MAX_CONCURRENCY="1") as server:
        assert server.ask("/tools", token="")[0] == 401
        server.token = old
        runs, until = tmp_path / "runs", tmp_path / "go"
        body = {"tool": {"name": "wait", "arguments": {"path": str(runs), "until": str(until)}}, "timeout_s": 60}
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.ask, "/execute", body)
            wait_until(runs.exists)
            late = {"tool": {"name": "answer", "arguments": {"value": 1}}, "timeout_s": 1}
            assert server.ask("/execute", late)[0] == 503
            until.touch()
            assert first.result()[0] == 200


def test_it_does_not_listen_to_other_machines_without_a_token(capfd: pytest.CaptureFixture[str]) -> None:
    with process("tool-server", "--host", "0.0.0.0") as started:
        assert started.wait(60) == 2
    assert "set TOOLFLEET_TOOL_SERVER_TOKEN" in capfd.readouterr().err


def test_a_module_that_is_not_there_is_said_in_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with process("tool-server", TOOLFLEET_TOOLS='["no_such_module"]') as started:
        assert started.wait(60) == 2
    said = capfd.readouterr().err
    assert "no_such_module" in said
    assert "PYTHONPATH" in said
    assert "Traceback" not in said


def test_no_log_holds_the_token_or_what_a_tool_was_told(tmp_path: Path) -> None:
    with tool_server() as server:
        server.run("answer", {"value": "secret-of-a-model"})
        server.run("look_up", {"query": 1, "secret": "secret-of-a-model"})
        server.ask("/tools", token="wrong-secret")
        server.process.terminate()
        server.process.wait(30)
        log = server.log.read_text()
    assert log
    assert "secret" not in log
