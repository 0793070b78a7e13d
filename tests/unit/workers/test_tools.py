"""What a tool asks of the runner, and how it shows the outcome."""

from typing import Any

import pytest

from toolfleet.backends.base import Outcome
from toolfleet.config.settings import Settings
from toolfleet.config.tools import parse
from toolfleet.workers.tools import Plan, Seen, Shown, Tool, registry

TOOLS = registry(Settings(), None)


def outcome(exit_code: int = 0, error: str | None = None, **detail: object) -> Outcome:
    """An outcome of a file operation."""
    return Outcome(exit_code, False, False, b"", b"", 0, 0, 0, 0, 0.0, error, detail)


def plan(tool: Tool[Any], arguments: dict[str, Any]) -> Plan:
    """The first request of ``tool``."""
    return next(tool.steps(parse(tool.definition, arguments)))


def show(tool: Tool[Any], arguments: dict[str, Any], seen: Outcome, stdout: str = "", stderr: str = "") -> Shown:
    """What ``tool`` says after its only request."""
    steps = tool.steps(parse(tool.definition, arguments))
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(Seen(seen, stdout, stderr))
    shown = end.value.value
    assert isinstance(shown, Shown)
    return shown


LS = {"command": "ls"}
FILE = {"path": "a"}


class TestTerminal:
    def test_runs_the_command_in_the_directory_asked_for(self) -> None:
        tool = TOOLS.get("terminal")
        assert plan(tool, LS).args == LS
        asked = plan(tool, {**LS, "workdir": "/src"})
        assert (asked.op, asked.args) == ("exec", {**LS, "cwd": "/src"})

    @pytest.mark.parametrize(
        ("exit_code", "stdout", "stderr", "shown"),
        [
            (0, "out\n", "chatter\n", "out\n"),
            (1, "out\n", "err\n", "out\nerr\n"),
            (1, "out", "err", "out\nerr"),
            (1, "", "err", "err"),
            (1, "out", "", "out"),
        ],
    )
    def test_shows_stderr_when_the_command_failed(self, exit_code: int, stdout: str, stderr: str, shown: str) -> None:
        said = show(TOOLS.get("terminal"), LS, outcome(exit_code), stdout, stderr)
        assert (said.output, said.exit_code, said.error) == (shown, exit_code, None)


class TestFiles:
    def test_read_file_asks_for_lines_and_bounds_the_bytes(self) -> None:
        asked = plan(TOOLS.get("read_file"), {**FILE, "offset": 3, "limit": 7})
        assert (asked.op, asked.args["path"], asked.args["offset"], asked.args["limit"]) == ("read", "a", 3, 7)
        assert asked.args["max_bytes"] > 0

    def test_write_file_sends_its_text_as_bytes(self) -> None:
        asked = plan(TOOLS.get("write_file"), {**FILE, "content": "grüße\x00"})
        assert (asked.op, asked.args, asked.body) == ("write", FILE, "grüße\x00".encode())

    @pytest.mark.parametrize("name", ["read_file", "write_file"])
    def test_an_error_is_what_the_model_sees_and_never_exits_with_0(self, name: str) -> None:
        arguments = {**FILE, "content": ""} if name == "write_file" else FILE
        said = show(TOOLS.get(name), arguments, outcome(0, "no such file: a"))
        assert (said.output, said.error, said.exit_code) == ("no such file: a", "no such file: a", 1)
