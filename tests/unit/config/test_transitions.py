"""The table of transitions names what exists, and docs/states.md shows it as it is."""

from importlib import resources
from pathlib import Path

import pytest

from toolfleet.config.transitions import TABLES, CallState, LeaseState, Transition, page

PAGE = Path(__file__).parents[3] / "docs" / "states.md"
SCRIPTS = {path.name.removesuffix(".lua") for path in (resources.files("toolfleet.config") / "scripts").iterdir()}
STATES: dict[str, type[LeaseState] | type[CallState]] = {"lease": LeaseState, "call": CallState}
ROWS = [(name, row) for name, table in TABLES.items() for row in table]


def test_the_page_is_printed_from_the_table() -> None:
    fresh = "python -m toolfleet.config.transitions > docs/states.md"
    assert PAGE.read_text("utf-8") == page(), f"run: {fresh}"


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_every_row_names_scripts_that_exist(name: str, row: Transition) -> None:
    assert set(row.scripts) <= SCRIPTS


@pytest.mark.parametrize("name", TABLES)
def test_no_step_stands_in_two_rows_with_the_same_reason(name: str) -> None:
    steps = [(row.before, script, row.after, row.why) for row in TABLES[name] for script in row.scripts]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("name", TABLES)
def test_every_state_can_be_reached_and_left(name: str) -> None:
    moves = [row for row in TABLES[name] if row.before != row.after]
    assert {row.after for row in moves} == {row.before for row in moves} == set(STATES[name])
