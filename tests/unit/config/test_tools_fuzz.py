"""Whatever a model writes as arguments, it gets arguments or one refusal that can be sent back to it."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toolfleet.config.contract import Status, ToolCall, ToolResult, ended
from toolfleet.config.errors import InvalidArguments, UnknownTool
from toolfleet.config.tools import Definition, catalogue, parse
from toolfleet.config.tools.base import POLICY_ARGUMENTS

TOOLS = catalogue()
CALL = ToolCall(call_id="c1", trajectory_id="t1", name="terminal")
#: Longest refusal, in characters: a model has to read it.
LONGEST = 20_000

#: Half a surrogate pair is no text, but JSON's ``"\\ud800"`` makes one.
TEXT = st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXT, values, max_size=4),
    max_leaves=12,
)


def written(tool: Definition[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments as a model might write them: some of the right names, some of none."""
    names = st.sampled_from(sorted({*tool.arguments.model_fields, *POLICY_ARGUMENTS})) | TEXT
    return st.dictionaries(names, VALUES, max_size=6)


def sent_back(message: str) -> None:
    """A refusal reaches the model as it is: in a result, as JSON, in UTF-8."""
    assert 0 < len(message) <= LONGEST
    result = ended(CALL, Status.REJECTED, executed="no", error=message, output=message)
    assert ToolResult.model_validate_json(result.model_dump_json()).error == message


@pytest.mark.parametrize("tool", list(TOOLS), ids=lambda tool: tool.name)
@given(st.data())
def test_any_object_is_arguments_or_is_refused_in_a_sentence(tool: Definition[Any], data: st.DataObject) -> None:
    given = data.draw(written(tool))
    for arguments in (given, json.dumps(given)):
        try:
            parsed = parse(tool, arguments)
        except InvalidArguments as refused:
            sent_back(str(refused))
        else:
            assert isinstance(parsed, tool.arguments)


@pytest.mark.parametrize("tool", list(TOOLS), ids=lambda tool: tool.name)
@given(TEXT | VALUES.map(json.dumps))
@example('{"command": "ls"')
@example('{"command": "ls", "\\ud800": 1}')
def test_any_text_is_arguments_or_is_refused_in_a_sentence(tool: Definition[Any], text: str) -> None:
    try:
        assert isinstance(parse(tool, text), tool.arguments)
    except InvalidArguments as refused:
        sent_back(str(refused))


@given(TEXT)
@example("terminal\ud800")
def test_any_name_is_a_tool_or_is_refused_in_a_sentence(name: str) -> None:
    try:
        assert name in {TOOLS.get(name).name, *TOOLS.get(name).aliases}
    except UnknownTool as refused:
        sent_back(str(refused))
