"""What is asked of the runner for a user's tool, and how its answer is read."""

import json
import subprocess
import sys
from typing import Any

import own_tools
import pytest

from toolfleet.config.errors import InvalidArguments, NoToolServer, UnknownTool
from toolfleet.config.settings import Settings
from toolfleet.config.tools import parse
from toolfleet.workers.tools import Plan, Tool, registry
from toolfleet.workers.tools.user import speak

TOOLS = registry(Settings(tools=("own_tools",)), None)


def plan(name: str, arguments: dict[str, Any]) -> Plan:
    """The first request of a tool."""
    tool: Tool[Any] = TOOLS.get(name)
    return next(tool.steps(parse(tool.definition, arguments)))


def execute(asked: Plan, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a request as a sandbox would."""
    argv = ["/bin/sh", "-c", asked.args["command"]]
    return subprocess.run(argv, env={**asked.args["env"], **env}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("text", ["", "plain", "ü\u2028'\"\\\n$(id)`id`", "\x00", "é" * 60_000])
def test_a_function_gets_its_arguments_as_they_were(text: str) -> None:
    path = sys.executable.rpartition("/")[0]
    done = execute(plan("echo", {"text": text}), PATH=path)
    assert (done.returncode, done.stdout) == (0, text), done.stderr


def test_a_sandbox_without_python_says_so() -> None:
    done = execute(plan("echo", {"text": "x"}), PATH="/nonexistent")
    assert done.returncode == 127
    assert done.stderr == "this tool needs python3 in the sandbox, and there is none\n"


def test_arguments_that_fit_into_no_frame_are_refused() -> None:
    with pytest.raises(InvalidArguments, match="arguments of echo: at most 400000 bytes of JSON"):
        plan("echo", {"text": "x" * 400_000})


def test_the_largest_arguments_fit_into_a_frame() -> None:
    worst = '"' * 199_000
    assert len(json.dumps(plan("echo", {"text": worst}).args)) < 1024 * 1024


@pytest.mark.parametrize(
    ("value", "output", "error"),
    [
        ("text", "text", ""),
        ({"a": [1, "ü"]}, '{"a": [1, "ü"]}', ""),
        ({"error": "bad"}, '{"error": "bad"}', "bad"),
        ('{"error": "bad"}', '{"error": "bad"}', "bad"),
        ({"error": ""}, '{"error": ""}', ""),
        ({"error": [1]}, '{"error": [1]}', "[1]"),
        ("{" * 100_000, "{" * 100_000, ""),
        (None, "null", ""),
    ],
)
def test_what_a_function_returns_is_its_output_and_an_error_in_it_is_one(
    value: object, output: str, error: str
) -> None:
    assert speak(value) == (output, error)


def test_a_tool_outside_the_sandbox_is_none_of_the_sandboxs() -> None:
    assert TOOLS.find("add").definition is own_tools.add.definition
    with pytest.raises(UnknownTool, match="runs outside the sandbox"):
        TOOLS.get("add")
    for name in ("web_search", "look_up"):
        with pytest.raises(NoToolServer, match=name):
            TOOLS.find(name)
