"""The page on compatibility says what is so: it is complete, and every test that it names is there."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from toolfleet.backends.conformance import CHECKS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
#: What the names of tests are relative to.
ROOTS = (ROOT / "tests", ROOT / "backends" / "toolfleet" / "backends")

#: How many rows each letter has; ``B6b`` is one more.
CONTRACTS = {"H": 11, "T": 9, "M": 4, "L": 5, "X": 10, "S": 10, "P": 4, "N": 11, "B": 13}
DEFECTS, ACCEPTANCE = 50, 16
VERDICTS = ("same", "better", "not kept")

_ROW = re.compile(r"^\| (?P<id>[A-Z]?\d+b?) \|(?P<cells>.*)\|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py(?:::\w+)+)`")


class Row(NamedTuple):
    """A line of one of the tables."""

    id: str
    cells: list[str]

    @property
    def tests(self) -> list[str]:
        """The tests that it names."""
        return _TEST.findall(self.cells[-1])


ROWS = [Row(m["id"], [cell.strip() for cell in m["cells"].split("|")]) for m in _ROW.finditer(PAGE.read_text("utf-8"))]


@cache
def names(path: Path) -> set[str]:
    """The functions of a file, those of a class as ``Class::function``."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


def test_every_row_stands_there_once() -> None:
    expected = {f"{letter}{n}" for letter, many in CONTRACTS.items() for n in range(1, many + 1)} | {"B6b"}
    expected |= {str(n) for n in range(1, DEFECTS + 1)} | {f"F{n}" for n in range(1, ACCEPTANCE + 1)}
    assert Counter(row.id for row in ROWS) == Counter(expected)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_whole(row: Row) -> None:
    contract = row.id[0].isalpha() and row.id[0] != "F"
    assert len(row.cells) == 3
    assert all(row.cells)
    if contract:
        assert row.cells[1].startswith(tuple(f"**{verdict}**" for verdict in VERDICTS))
    if not contract or not row.cells[1].startswith("**not kept**"):
        assert row.tests or (row.cells[-1].startswith("none: ") and not row.cells[1].startswith("**same**"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_tests_that_a_row_names_exist(row: Row) -> None:
    for test in row.tests:
        file, _, name = test.partition("::")
        found = [root / file for root in ROOTS if (root / file).is_file()]
        assert found, f"there is no {file}"
        assert name in names(found[0]), f"{file} has no {name}"
        assert name.rpartition("::")[2].startswith("test_") or name.replace("_", "-") in CHECKS
