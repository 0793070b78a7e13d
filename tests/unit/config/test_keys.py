"""Every Redis key has one home, `toolfleet.config.keys`; scripts use its names and say what they do."""

import re
from importlib import resources

import pytest
import redis.crc

from toolfleet.config import keys

SCRIPTS = {
    path.name: path.read_text("utf-8")
    for path in (resources.files("toolfleet.config") / "scripts").iterdir()
    if path.name.endswith(".lua")
}
WHOLE = sorted(set(SCRIPTS) - {"_common.lua"})
#: An id that would win over the fleet's hash tag, came it first.
HOSTILE = "a{b}c:lease:*"


def code(script: str) -> str:
    """A script without its comments."""
    return re.sub(r"--.*", "", SCRIPTS[script])


def made(name: str, fleet: str = "blue") -> str:
    """The key ``name`` with an id where it takes one."""
    return keys.key(fleet, name, HOSTILE if keys.KEYS[name][0] else None)


@pytest.mark.parametrize("name", keys.KEYS)
def test_every_key_of_a_fleet_is_in_one_slot_of_a_cluster(name: str) -> None:
    assert redis.crc.key_slot(made(name).encode()) == redis.crc.key_slot(keys.root("blue").encode())


def test_the_keys_of_the_transport_are_in_that_slot_too() -> None:
    prefix = keys.broker_prefix("blue")
    assert redis.crc.key_slot(f"{prefix}queue".encode()) == redis.crc.key_slot(keys.root("blue").encode())


def test_two_fleets_share_no_key_and_no_queue() -> None:
    assert not {made(name) for name in keys.KEYS} & {made(name, "red") for name in keys.KEYS}
    assert keys.queue("blue", "w") != keys.queue("red", "w")
    assert keys.broker_prefix("blue") != keys.broker_prefix("red")


def test_two_kinds_of_key_never_meet() -> None:
    assert len({made(name) for name in keys.KEYS}) == len(keys.KEYS)


@pytest.mark.parametrize("name", keys.KEYS)
def test_a_key_insists_on_its_id_or_on_having_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"the key '{name}'"):
        keys.key("blue", name, None if keys.KEYS[name][0] else "x")


def test_the_prelude_gives_lua_every_key_under_the_same_name() -> None:
    defined = re.findall(
        r"^local function (\w+)_key\(id\) return KEYS\[1\] \.\. (.+?) end", keys.lua_prelude(), re.MULTILINE
    )
    assert [name for name, _ in defined] == list(keys.KEYS)
    for name, tail in defined:
        made_by_lua = keys.root("blue") + tail.replace(" .. id", "").strip("'") + HOSTILE * keys.KEYS[name][0]
        assert made_by_lua.replace("'", "") == made(name)


@pytest.mark.parametrize("script", WHOLE)
def test_every_script_begins_with_a_legend_of_keys_arguments_and_returns(script: str) -> None:
    header = "\n".join(line for line in SCRIPTS[script].split("\n") if line.startswith("--"))
    head = re.match(r"(--[^\n]*\n)+", SCRIPTS[script])
    assert head, "the legend stands at the very top"
    for word in ("-- KEYS[1] ", "-- ARGV 1 ", "-- Returns "):
        assert word in head.group(), f"{word!r} is missing in: {header}"


@pytest.mark.parametrize("script", WHOLE)
def test_the_legend_numbers_every_argument_that_the_script_reads(script: str) -> None:
    """A fixed argument is read as ``ARGV[n]``, lists of groups as ``ARGV[i + k]``."""
    used = {int(n) for n in re.findall(r"ARGV\[(\d+)\]", code(script))}
    legend = SCRIPTS[script].split("-- Returns ")[0].split("-- ARGV ")[1]
    told = {int(n) for n in re.findall(r"(?:^|\s)(\d+) (?=\w)", legend)}
    assert used <= told


@pytest.mark.parametrize("script", WHOLE)
def test_no_argument_of_the_legend_is_unused(script: str) -> None:
    legend = SCRIPTS[script].split("-- Returns ")[0].split("-- ARGV ")[1]
    for number in re.findall(r"(?:^|\s)(\d+) (?=\w)", legend):
        assert f"ARGV[{number}]" in code(script), f"argument {number} is never read"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_no_script_writes_a_key_by_hand(script: str) -> None:
    text = code(script)
    assert re.search(r"\bKEYS\b", text) is None
    assert "toolfleet" not in text
    for name in keys.KEYS:
        assert f":{name}" not in text.replace(f"'serves:{name}", "").replace(f"'warm:{name}", "")
    for command, first in re.findall(r"redis\.call\('(\w+)'(?:, ([^,()]+\(?))?", text):
        assert command == "TIME" or re.fullmatch(r"(\w+_key\(|key|room|queue)", first.strip()), f"{command} on {first}"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_key_function_that_a_script_calls_exists(script: str) -> None:
    assert set(re.findall(r"\b(\w+)_key\(", code(script))) <= set(keys.KEYS)


def test_no_script_asks_for_the_time_but_of_redis() -> None:
    for script in SCRIPTS:
        assert "os." not in code(script)
    assert sum("'TIME'" in code(script) for script in SCRIPTS) == 1
