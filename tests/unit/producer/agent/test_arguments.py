"""L3: arguments become a dict, and are valid only as the object that the schema asks for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.producer.agent import normalise
from toolfleet.producer.agent.arguments import DEEPEST

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("tool", "raw", "arguments", "valid"),
    [
        ("terminal", '{"command": "ls"}', {"command": "ls"}, True),
        ("terminal", '{"command": "ls", "timeout": 5}', {"command": "ls", "timeout": 5}, True),
        ("terminal", {"command": "ls"}, {"command": "ls"}, True),
        ("read_file", '{"path": "/a"}', {"path": "/a"}, True),
        ("read_file", "{}", {}, True),
        # A shell tool needs a command, which may stand under another name.
        ("terminal", '{"input": "ls", "timeout": 5}', {"command": "ls", "timeout": 5}, False),
        ("terminal", '{"command": "  ", "input": "ls"}', {"command": "ls"}, False),
        ("bash", '{"input": "ls"}', {"command": "ls"}, False),
        ("terminal", '{"command": ["ls"]}', {"command": ["ls"]}, False),
        ("terminal", "{}", {}, False),
        ("read_file", '{"input": "ls"}', {"input": "ls"}, True),
        # An object inside a string is taken out of it.
        ("terminal", '"{\\"command\\": \\"ls\\"}"', {"command": "ls"}, False),
        ("read_file", '"{\\"path\\": \\"/a\\"}"', {"path": "/a"}, False),
        ("terminal", '"{\\"input\\": \\"ls\\"}"', {"command": "ls"}, False),
        # What is no object is the one argument that matters.
        ("terminal", "ls -l", {"command": "ls -l"}, False),
        ("terminal", '"ls -l"', {"command": "ls -l"}, False),
        ("terminal", '"[1, 2]"', {"command": "[1, 2]"}, False),
        ("web_search", "tides", {"input": "tides"}, False),
        ("terminal", "42", {"command": "42"}, False),
        ("terminal", "true", {"command": "true"}, False),
        ("web_search", '["a", "b"]', {"input": '["a", "b"]'}, False),
        ("web_search", "null", {"input": "null"}, False),
        ("web_search", 7, {"input": "7"}, False),
        ("web_search", object, {"input": "<type>"}, False),
        ("terminal", '{"command": "ls"', {"command": '{"command": "ls"'}, False),
        ("web_search", "", {"input": ""}, False),
        ("web_search", '{"n": NaN}', {"input": '{"n": NaN}'}, False),
        # A call without arguments has none.
        ("terminal", None, {}, False),
    ],
)
def test_what_a_model_writes_becomes_a_dict(tool: str, raw: object, arguments: dict[str, object], valid: bool) -> None:
    assert normalise(tool, raw) == (arguments, valid)


@given(tool=st.sampled_from(["terminal", "read_file"]), raw=JSON | JSON.map(json.dumps) | st.text())
def test_it_never_raises_and_always_gives_a_dict(tool: str, raw: object) -> None:
    arguments, valid = normalise(tool, raw)
    assert isinstance(arguments, dict)
    assert all(isinstance(key, str) for key in arguments)
    if valid:
        assert arguments == (json.loads(raw) if isinstance(raw, str) else raw)


@pytest.mark.parametrize("depth", [DEEPEST, 5_000, 200_000])
def test_nesting_beyond_reason_is_text(depth: int) -> None:
    """A shallow object keeps its shape; a deep one would break encoders that come later."""
    raw = '{"a": ' + "[" * depth + "]" * depth + "}"
    assert normalise("read_file", raw) == ({"input": raw}, False)
    fits = '{"a": ' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}"
    assert normalise("read_file", fits).schema_valid


def test_a_value_that_holds_itself_is_no_argument() -> None:
    loop: dict[str, object] = {}
    loop["again"] = loop
    assert normalise("read_file", loop) == ({"input": "<dict>"}, False)
