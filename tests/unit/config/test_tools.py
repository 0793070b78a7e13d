"""Arguments as models write them: understood, or refused with the name of every field that is wrong."""

import json
from typing import Any

import pytest

from toolfleet.config.contract import clamp_timeout
from toolfleet.config.errors import InvalidArguments, InvalidCall, UnknownTool
from toolfleet.config.tools import Arguments, catalogue, parse

TOOLS = catalogue()


def refusal(tool: str, arguments: dict[str, Any] | str) -> str:
    """The message with which ``arguments`` are refused."""
    with pytest.raises(InvalidArguments) as caught:
        parse(TOOLS.get(tool), arguments)
    message = str(caught.value)
    assert message.startswith(f"arguments of {tool}")
    message.encode("utf-8")  # it becomes the result that the model reads
    return message


class TestRegistry:
    @pytest.mark.parametrize("name", ["terminal", "read_file", "write_file"])
    def test_finds_the_tools_that_every_worker_has(self, name: str) -> None:
        assert TOOLS.get(name).name == name

    def test_an_unknown_tool_is_answered_with_the_nearest_and_with_all(self) -> None:
        with pytest.raises(UnknownTool) as caught:
            TOOLS.get("terminl")
        available = ", ".join(tool.name for tool in TOOLS)
        assert str(caught.value) == f"unknown tool 'terminl'; available: {available}. Did you mean 'terminal'?"

    def test_a_hidden_tool_is_neither_named_nor_found_unless_asked_for(self) -> None:
        assert TOOLS.get("put_part", hidden=True).hidden
        for name in ("put_part", "put_par"):
            with pytest.raises(UnknownTool) as caught:
                TOOLS.get(name)
            assert "put_part" not in str(caught.value).removeprefix(f"unknown tool {name!r}")
        assert "put_part" not in {schema["function"]["name"] for schema in TOOLS.schemas()}

    def test_a_name_near_to_nothing_gets_no_suggestion(self) -> None:
        with pytest.raises(UnknownTool) as caught:
            TOOLS.get("zzz")
        assert "Did you mean" not in str(caught.value)

    @pytest.mark.parametrize("name", ["x" * 100_000, "\ud800", "a\nb", ""])
    def test_the_message_is_short_and_printable_whatever_the_name(self, name: str) -> None:
        with pytest.raises(UnknownTool) as caught:
            TOOLS.get(name)
        assert len(str(caught.value)) < 400
        str(caught.value).encode("utf-8")

    def test_an_unknown_tool_is_a_call_that_can_never_run(self) -> None:
        assert issubclass(UnknownTool, InvalidCall)
        assert issubclass(InvalidArguments, InvalidCall)


class TestParse:
    def test_arguments_or_their_json_text_are_the_same(self) -> None:
        tool = TOOLS.get("terminal")
        arguments = {"command": "ls", "workdir": "/tmp", "timeout": 5}
        assert parse(tool, arguments) == parse(tool, json.dumps(arguments))

    def test_every_field_that_is_wrong_is_named(self) -> None:
        message = refusal("read_file", {"path": "", "offset": 0, "limit": "many", "colour": "red"})
        for field in ("path: ", "offset: ", "limit: ", "colour: "):
            assert field in message

    def test_a_missing_field_is_named(self) -> None:
        assert "command: Field required" in refusal("terminal", {})

    @pytest.mark.parametrize(
        ("tool", "arguments", "field"),
        [
            ("terminal", {"command": 3}, "command"),
            ("terminal", {"command": ""}, "command"),
            ("terminal", {"command": ["ls"]}, "command"),
            ("terminal", {"command": "ls", "workdir": 1}, "workdir"),
            ("terminal", {"command": "ls", "timeout": "soon"}, "timeout"),
            ("terminal", {"command": "ls", "timeout": [1]}, "timeout"),
            ("terminal", {"command": "ls", "cwd": "/"}, "cwd"),
            ("read_file", {"path": "x", "limit": 2001}, "limit"),
            ("read_file", {"path": "x", "offset": -1}, "offset"),
            ("write_file", {"path": "x"}, "content"),
            ("write_file", {"path": "x", "content": {"a": 1}}, "content"),
        ],
    )
    def test_a_wrong_value_is_named_by_its_field(self, tool: str, arguments: dict[str, Any], field: str) -> None:
        assert f"{field}: " in refusal(tool, arguments)

    @pytest.mark.parametrize(
        "text", ["", "ls -l", "{'command': 'ls'}", '{"command": "ls"', "\x00", "\ud800", "1" * 5000]
    )
    def test_a_text_that_is_not_json(self, text: str) -> None:
        assert "are not JSON: " in refusal("terminal", text)

    @pytest.mark.parametrize(
        ("text", "kind"), [("[]", "list"), ('["ls"]', "list"), ('"ls"', "str"), ("3", "int"), ("null", "NoneType")]
    )
    def test_json_that_is_not_an_object(self, text: str, kind: str) -> None:
        assert refusal("terminal", text).endswith(f"must be a JSON object, not {kind}")

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"command":' * 100_000])
    def test_json_nested_without_end_is_the_models_fault(self, text: str) -> None:
        refusal("terminal", text)

    @pytest.mark.parametrize("text", ['{"command": "\\ud800"}', '{"command": "ls", "\\ud800": 1}'])
    def test_half_a_surrogate_pair_is_refused(self, text: str) -> None:
        refusal("terminal", text)

    def test_a_pair_of_surrogates_is_a_character(self) -> None:
        assert parse(TOOLS.get("terminal"), '{"command": "\\ud83d\\ude00"}').command == "\U0001f600"

    def test_a_nul_travels_to_the_runner_which_says_what_it_thinks_of_it(self) -> None:
        assert parse(TOOLS.get("terminal"), {"command": "a\x00b"}).command == "a\x00b"

    def test_messages_stay_short_whatever_the_model_wrote(self) -> None:
        assert len(refusal("terminal", {"command": "ls", **{f"{i}" * 50: i for i in range(1000)}})) < 20_000


class TestTimeout:
    @pytest.mark.parametrize(("given", "seconds"), [(5, 5.0), (0.5, 0.5), ("30", 30.0), (None, None)])
    def test_seconds_are_taken_also_as_text(self, given: object, seconds: float | None) -> None:
        assert parse(TOOLS.get("terminal"), {"command": "ls", "timeout": given}).timeout == seconds

    @pytest.mark.parametrize("text", ["true", "false"])
    def test_a_truth_value_is_no_number_of_seconds(self, text: str) -> None:
        assert "timeout: " in refusal("terminal", f'{{"command": "ls", "timeout": {text}}}')

    @pytest.mark.parametrize("given", ["NaN", '"nan"'])
    def test_not_a_number_is_refused_by_the_time_it_is_clamped(self, given: str) -> None:
        parsed = parse(TOOLS.get("terminal"), f'{{"command": "ls", "timeout": {given}}}')
        assert parsed.timeout is not None
        with pytest.raises(ValueError, match="must be a number of seconds"):
            clamp_timeout(parsed.timeout, 600.0)

    def test_a_number_beyond_every_float_is_refused_or_cut(self) -> None:
        try:
            parsed = parse(TOOLS.get("terminal"), '{"command": "ls", "timeout": 1' + "0" * 400 + "}")
        except InvalidArguments:
            return
        assert parsed.timeout is not None
        assert clamp_timeout(parsed.timeout, 600.0) == 600.0


@pytest.mark.parametrize("name", ["terminal", "read_file", "write_file"])
def test_every_tool_refuses_arguments_it_does_not_know_and_takes_a_timeout(name: str) -> None:
    kind = TOOLS.get(name).arguments
    assert issubclass(kind, Arguments)
    schema = kind.model_json_schema()
    assert schema["additionalProperties"] is False
    assert "timeout" in schema["properties"]


@pytest.mark.parametrize("name", ["allow_network", "require_sandbox", "require_stateful_sandbox"])
def test_what_a_model_writes_about_policy_is_dropped(name: str) -> None:
    assert parse(TOOLS.get("terminal"), {"command": "ls", name: True}) == parse(
        TOOLS.get("terminal"), {"command": "ls"}
    )


class TestSchemas:
    """What a model is told."""

    def test_they_are_function_tools(self) -> None:
        (schema,) = TOOLS.schemas({"read_file"})
        assert schema["type"] == "function"
        function = schema["function"]
        assert (function["name"], function["parameters"]["required"]) == ("read_file", ["path"])
        assert function["parameters"]["properties"]["limit"]["maximum"] == 2000

    def test_aliases_are_understood_and_not_advertised(self) -> None:
        assert TOOLS.get("bash") is TOOLS.get("terminal")
        assert "bash" not in [schema["function"]["name"] for schema in TOOLS.schemas()]
