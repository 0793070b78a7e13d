"""A function becomes a tool, or its author is told what to change."""

import re
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import own_tools
import pytest
from pydantic import Field

from toolfleet.config.errors import InvalidArguments, SettingsError
from toolfleet.config.settings import Settings
from toolfleet.config.tools import Arguments, Context, UserTool, catalogue, parse, tool
from toolfleet.config.tools import own_tools as load_own
from toolfleet.config.tools.user import load, source

CONTEXT = Context("t1", "c1", 9.0, "s1", "http://c")


class Whole(Arguments):
    """Arguments of a tool that takes them whole."""

    query: str


class TestSignature:
    def test_name_docstring_and_parameters_are_what_a_model_is_told(self) -> None:
        @tool(where="worker")
        def look(path: str, depth: Annotated[int, Field(ge=1, description="Levels.")] = 2) -> str:
            """Look around."""
            return path * depth

        function = look.definition.schema()["function"]
        assert (function["name"], function["description"], look.definition.where) == ("look", "Look around.", "worker")
        properties = function["parameters"]["properties"]
        assert (properties["path"], properties["depth"]["description"]) == ({"type": "string"}, "Levels.")
        assert function["parameters"]["required"] == ["path"]
        assert look("x", depth=1) == "x", "it is still the function"

    def test_arguments_are_checked_and_handed_over_by_name(self) -> None:
        made = own_tools.add
        arguments = parse(made.definition, {"a": 1, "b": "2", "timeout": 3})
        assert made.keywords(arguments, CONTEXT) == {"a": 1, "b": 2}
        with pytest.raises(InvalidArguments, match="b: Input should be greater"):
            parse(made.definition, {"a": 1, "b": -1})

    def test_a_model_may_describe_all_arguments_at_once(self) -> None:
        given = parse(own_tools.look_up.definition, {"query": "x"})
        keywords = own_tools.look_up.keywords(given, CONTEXT)
        assert keywords == {"search": given, "task_id": "t1", "slot_id": "s1"}

    def test_who_calls_is_filled_in_and_never_asked_of_a_model(self) -> None:
        made = own_tools.whoami
        assert made.definition.schema()["function"]["parameters"]["properties"].keys() == {"timeout"}
        keywords = made.keywords(parse(made.definition, {}), CONTEXT)
        assert keywords == {"trajectory_id": "t1", "call_id": "c1", "timeout": 9.0}

    def test_a_name_and_a_description_may_be_given(self) -> None:
        made = tool(where="worker", name="web-look", description="Look.")(lambda: "x")
        assert (made.definition.name, made.definition.description) == ("web-look", "Look.")


def _no_doc(a: int) -> int:
    return a


def _untyped(a) -> int:  # type: ignore[no-untyped-def]
    """Do."""
    return int(a)


def _positional(a: int, /) -> int:
    """Do."""
    return a


def _variable(*a: int) -> int:
    """Do."""
    return sum(a)


def _keywords(**a: int) -> int:
    """Do."""
    return sum(a.values())


def _private(_a: int) -> int:
    """Do."""
    return _a


def _default(a: int = "x") -> int:  # type: ignore[assignment]
    """Do."""
    return a


def _callable(a: Callable[[], int]) -> int:
    """Do."""
    return a()


def _reserved(model_dump: str) -> str:
    """Do."""
    return model_dump


def _unknown(a: "Nowhere") -> int:  # type: ignore[name-defined]  # noqa: F821
    """Do."""
    return int(a)


def _generator(a: int) -> Iterator[int]:
    """Do."""
    yield a


async def _async(a: int) -> int:
    """Do."""
    return a


async def _async_generator(a: int) -> AsyncIterator[int]:
    """Do."""
    yield a


def _foreign(a: str) -> bool:
    """Do."""
    return bool(re.match(a, a)) or Path(a).exists()


def _told(a: str, trajectory_id: str) -> str:
    """Do."""
    return a + trajectory_id


def _whole(a: Whole) -> str:
    """Do."""
    return a.query


@pytest.mark.parametrize(
    ("function", "where", "says"),
    [
        (_no_doc, "worker", "give it a docstring"),
        (_untyped, "worker", "write a: str, or whatever it is"),
        (_positional, "worker", "remove the / behind a"),
        (_variable, "worker", "replace *a: int by parameters with names"),
        (_keywords, "worker", "replace **a: int by parameters with names"),
        (_private, "worker", "_a must not begin with an underscore"),
        (_default, "worker", "the default of a is not of its type"),
        (_callable, "worker", "a type cannot be told to a model in JSON"),
        (_reserved, "worker", "rename the parameter"),
        (_unknown, "worker", "'Nowhere' is not defined"),
        (_generator, "worker", "a generator is a sandbox's"),
        (_generator, "external", "a generator is a sandbox's"),
        (_async_generator, "worker", "a generator is a sandbox's"),
        (_async, "sandbox", "write def, not async def"),
        (_async_generator, "sandbox", "write def, not async def"),
        (_foreign, "sandbox", "its sandbox has no Path, re: import or define it inside the function"),
        (_told, "sandbox", "a sandbox is not told trajectory_id: remove the parameter"),
        (_whole, "sandbox", "list them as parameters"),
        (lambda: 1, "worker", "the name '<lambda>' must be"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_with_what_to_change(
    function: Callable[..., Any], where: Any, says: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        tool(where=where)(function)
    message = str(caught.value)
    assert message.startswith(f"@tool {__name__}.")
    assert function.__name__ in message
    assert says in message


def test_a_function_that_uses_what_is_around_it_cannot_go_to_a_sandbox() -> None:
    around = 3

    def inner(a: int) -> int:
        """Do."""
        return a + around

    with pytest.raises(SettingsError, match="it uses around of the function around it"):
        tool(where="sandbox")(inner)


class TestSource:
    def test_it_stands_alone(self) -> None:
        """Decorator, annotations and defaults name what only the user's module has."""
        text = source(own_tools.count_words)
        assert text.startswith("def count_words(path, at_least):\n")
        compile(text, "sandbox", "exec")

    def test_a_function_without_a_file_has_none(self) -> None:
        space: dict[str, Any] = {}
        exec("def nowhere(a: int) -> int:\n    'Do.'\n    return a\n", space)  # noqa: S102 - as a notebook does
        with pytest.raises(SettingsError, match="define it in a file"):
            tool(where="sandbox")(space["nowhere"])


class TestLoad:
    @pytest.fixture
    def module(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        def make(name: str, **values: object) -> str:
            module = types.ModuleType(name)
            vars(module).update(values)
            monkeypatch.setitem(sys.modules, name, module)
            return name

        return make

    def test_all_tools_of_a_module_are_found_in_order(self) -> None:
        names = [made.definition.name for made in load(["own_tools"])]
        assert names[:3] == ["count_words", "echo", "swap"]
        assert "block" in names

    def test_a_module_that_is_not_there(self) -> None:
        with pytest.raises(
            SettingsError, match=r"module no_such .* cannot be imported: .*; is it installed, or on PYTHONPATH"
        ):
            load(["no_such"])

    def test_a_module_that_breaks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "broken_tools.py").write_text("1 / 0\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(SettingsError, match=r"broken_tools .* cannot be imported: ZeroDivisionError"):
            load(["broken_tools"])

    def test_a_module_without_tools(self, module: Callable[..., str]) -> None:
        with pytest.raises(SettingsError, match="has no tools: decorate functions with @tool"):
            load([module("empty_tools")])

    def test_two_tools_of_one_name(self, module: Callable[..., str]) -> None:
        def made() -> UserTool[..., str]:
            return tool(where="worker", name="same", description="Do.")(lambda: "x")

        with pytest.raises(SettingsError, match="two tools are named 'same'"):
            load([module("twice_a", a=made()), module("twice_b", b=made())])

    @pytest.mark.parametrize("name", ["terminal", "bash"])
    def test_a_name_that_every_fleet_has_is_taken(self, module: Callable[..., str], name: str) -> None:
        mine = tool(where="worker", name=name, description="Do.")(lambda: "x")
        with pytest.raises(SettingsError, match=f"there is a tool '{name}' already"):
            load_own(Settings(tools=(module("taken_tools", mine=mine),)))

    def test_a_tool_may_take_the_place_of_an_external_one(self, module: Callable[..., str]) -> None:
        @tool(where="external")
        def web_search(query: str, region: str = "eu") -> str:
            """Search in my way."""
            return query + region

        found = catalogue(Settings(tools=(module("search_tools", mine=web_search),), tool_server_url="inprocess"))
        assert found.get("web_search").description == "Search in my way."
        assert {"web_extract", "browser_navigate", "browser_snapshot"} <= {each.name for each in found}


def test_external_tools_are_advertised_only_with_a_server() -> None:
    without = {each.name for each in catalogue(Settings(tools=("own_tools",)))}
    assert {"add", "count_words", "terminal"} <= without
    assert without.isdisjoint({"web_search", "browser_navigate", "look_up"})
    with_server = {each.name for each in catalogue(Settings(tools=("own_tools",), tool_server_url="http://x:1"))}
    assert {"web_search", "browser_navigate", "look_up"} <= with_server
