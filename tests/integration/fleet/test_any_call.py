"""Whatever a model writes, the fleet is not to blame, and the trajectory goes on."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolfleet.config.contract import Fault
from toolfleet.config.errors import InvalidCall
from toolfleet.config.tools import catalogue
from toolfleet.producer import Fleet

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
#: Texts that a shell, a path, a pattern or a patch may trip over.
HARD = st.sampled_from([
    "", ".", "/", "..", "~", "-", "--help", "/tmp", "/dev/zero", "/proc/self/mem", "/tmp/a\0b", "a" * 5000,
    "[", "(a+)+$", "*", "'", '"', "`", "$(", "<<X", "&", "|", "\\", "\n", "exit", "\x1b[2J", "\ufeff",
    "*** Begin Patch\n*** End Patch",
])  # fmt: skip
VALUES = HARD | TEXT | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(HARD, max_size=3)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A tool that there is, and arguments that often are the right ones."""
    tool = draw(st.sampled_from([tool for tool in catalogue() if tool.where == "sandbox"]))
    names = sorted(tool.arguments.model_fields.keys() - {"timeout"})
    required = [name for name in names if tool.arguments.model_fields[name].is_required()]
    chosen = {*required, *draw(st.lists(st.sampled_from(names), max_size=3))}
    return tool.name, {name: draw(HARD | TEXT if name in required else VALUES) for name in sorted(chosen)}


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(call=calls(), as_text=st.booleans())
async def test_no_call_is_the_infrastructures_fault(
    fleet: Fleet, call: tuple[str, dict[str, Any]], as_text: bool
) -> None:
    name, arguments = call
    t = fleet.trajectory("any-call")
    try:
        r = await t.call(name, json.dumps(arguments) if as_text else arguments, timeout=5)
    except InvalidCall:
        return
    assert r.fault is not Fault.INFRASTRUCTURE, r
    assert (await t.terminal("echo alive")).stdout == "alive\n"
