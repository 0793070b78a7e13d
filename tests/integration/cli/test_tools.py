"""``toolfleet tools``: what there is, for people and for models."""

import json
from pathlib import Path

from cli_home import Home

TESTS = str(Path(__file__).parents[2])
OWN = {"PYTHONPATH": TESTS, "TOOLFLEET_TOOLS": '["own_tools"]'}


def names(home: Home, *arguments: str, **env: str) -> list[str]:
    """The tools that models are told of."""
    done = home.run("tools", "--json", *arguments, **env)
    assert done.returncode == 0, done.stderr
    return [tool["function"]["name"] for tool in json.loads(done.stdout)]


def test_the_table_shows_where_each_runs_and_what_it_takes(home: Home) -> None:
    done = home.run("tools", **OWN, TOOLFLEET_TOOL_SERVER_URL="http://x:1")
    assert done.returncode == 0, done.stderr
    rows = {cells[1].strip(): cells for line in done.stdout.splitlines() if len(cells := line.split("│")) > 4}
    assert [rows["count_words"][n].strip() for n in (2, 3)] == ["sandbox", "path, [at_least]"]
    assert [rows["add"][n].strip() for n in (2, 3)] == ["worker", "a, [b]"]
    assert [rows["web_search"][n].strip() for n in (2, 3)] == ["external", "query"]


def test_external_tools_are_listed_only_with_a_server(home: Home) -> None:
    assert {"terminal", "read_file", "write_file"} <= set(names(home))
    assert "web_search" not in names(home)
    assert {"web_search", "look_up"} <= set(names(home, **OWN, TOOLFLEET_TOOL_SERVER_URL="inprocess"))


def test_a_profile_lists_only_what_it_allows(home: Home) -> None:
    policy = {"TOOLFLEET_PROFILES__default__TOOLS": '["terminal", "add", "web_search"]'}
    assert names(home, "--profile", "default", **OWN, **policy) == ["add", "terminal"]


def test_what_is_wrong_is_said_in_a_sentence(home: Home) -> None:
    for arguments, env, says in (
        (["--profile", "defualt"], {}, "Did you mean 'default'?"),
        ([], {"TOOLFLEET_TOOLS": '["no_such_module"]'}, "no_such_module"),
    ):
        done = home.run("tools", *arguments, **env)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
        assert "Traceback" not in done.stderr
