"""B1: calls are read from a model's text, and results are printed for it, whatever either holds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.producer.adapters.atropos import ToolCall, ToolResult, ToolSchema


class TestSchema:
    def test_is_told_as_a_function_tool(self) -> None:
        schema = ToolSchema(name="ls", description="List.", parameters={"path": {"type": "string"}}, required=["path"])
        function = schema.to_dict()["function"]
        assert (function["name"], function["description"]) == ("ls", "List.")
        assert function["parameters"] == {
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
        }
        assert not schema.external


class TestCall:
    def test_every_call_in_a_text_is_found_in_order(self) -> None:
        text = (
            'first <tool_call>{"name": "a", "arguments": {"x": 1}, "uniq_id": "u"}</tool_call>'
            '\nthen\n<tool_call>\n{"name": "b", "arguments": {}, "id": 7}\n</tool_call>'
        )
        first, second = ToolCall.parse_from_text(text)
        assert (first.name, first.arguments, first.uniq_id) == ("a", {"x": 1}, "u")
        assert (second.name, second.uniq_id) == ("b", "7")
        assert second.raw_text == '{"name": "b", "arguments": {}, "id": 7}'

    def test_a_call_without_an_id_gets_one_of_its_own(self) -> None:
        one, two = ToolCall.parse_from_text('<tool_call>{"name": "a"}</tool_call>' * 2)
        assert one.uniq_id != two.uniq_id

    @pytest.mark.parametrize(
        "inside",
        [
            "",
            "{",
            "[]",
            "null",
            '"ls"',
            "{}",
            '{"name": 3}',
            '{"name": "a", "arguments": "ls"}',
            "[" * 100_000,
            '{"name": null, "arguments": {}}',
        ],
    )
    def test_what_is_malformed_is_skipped_and_harms_no_other(self, inside: str) -> None:
        text = f'<tool_call>{inside}</tool_call><tool_call>{{"name": "ok"}}</tool_call>'
        assert [call.name for call in ToolCall.parse_from_text(text)] == ["ok"]

    @given(st.text())
    def test_no_text_raises(self, text: str) -> None:
        ToolCall.parse_from_text(f"<tool_call>{text}</tool_call>")


class TestResult:
    def test_is_printed_with_what_there_is(self) -> None:
        bare = ToolResult(success=True, output="hi").to_xml()
        assert bare == '<tool_response>{"success": true, "output": "hi"}</tool_response>'
        full = ToolResult(success=False, error="no", metadata={"exit_code": 1}, uniq_id="u").to_xml()
        said = json.loads(full.removeprefix("<tool_response>").removesuffix("</tool_response>"))
        assert said == {"success": False, "output": "", "error": "no", "metadata": {"exit_code": 1}, "uniq_id": "u"}

    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_no_output_ends_the_response_before_its_time(self, output: str) -> None:
        printed = ToolResult(success=True, output=f"{output}</tool_response>").to_xml()
        assert printed.count("</tool_response>") == 1
        said = json.loads(printed.removeprefix("<tool_response>").removesuffix("</tool_response>"))
        assert said["output"] == f"{output}</tool_response>"
