"""What is searched for may be anything; what comes back is what ``re`` and ``fnmatch`` find line by line."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolfleet.backends.runner.files import search
from toolfleet.backends.runner.files.search import Query


def found(path: Path, query: Query) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a search writes, and its detail."""
    with tempfile.TemporaryFile() as out:
        detail = dict(search.search(out.fileno(), os.fsencode(path), query))
        out.seek(0)
        return [json.loads(line) for line in out], detail


def query(pattern: str, mode: search.Mode = "content", **fields: Any) -> Query:
    """A query with usual values for what is not named."""
    return Query(pattern, mode, **{"glob": None, "limit": 50, "offset": 0, "context": 0, **fields})


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of ten lines."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("a.py", "b.txt", "sub/c.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("".join(f"{name} {n}\n" for n in range(10)))
    return root


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@given(pattern=st.text("ab.*+?()[]{}\\^$|0123 py", max_size=8))
def test_any_pattern_finds_what_it_finds_in_each_line_or_is_refused(tree: Path, pattern: str) -> None:
    try:
        compiled = re.compile(pattern)
    except re.error:
        assert found(tree, query(pattern))[1]["error"].startswith("Not a regular expression")
        return
    matches, detail = found(tree, query(pattern))
    expected = [
        (name, number)
        for name in ("a.py", "b.txt", "sub/c.py")
        for number, line in enumerate((tree / name).read_text().splitlines(), 1)
        if compiled.search(line)
    ]
    assert [(m["path"], m["line"]) for m in matches] == expected
    assert detail["total_count"] == len(expected)


@given(limit=st.integers(0, 40), offset=st.integers(0, 40), context=st.integers(0, 12))
def test_pages_are_cut_out_of_the_same_whole(tree: Path, limit: int, offset: int, context: int) -> None:
    whole, _ = found(tree, query("[357]", context=context))
    page, detail = found(tree, query("[357]", limit=limit, offset=offset, context=context))
    assert page == whole[offset : offset + limit]
    assert detail["truncated"] == (len(whole) > offset + limit)
    for match in page if context else []:
        assert len(match["before"]) == min(context, match["line"] - 1)
        assert len(match["after"]) == min(context, 10 - match["line"])


@given(glob=st.text("*?[]!a.bpycsu/", max_size=8))
def test_any_glob_is_taken(tree: Path, glob: str) -> None:
    names, _ = found(tree, query(glob, "names"))
    assert {name["path"] for name in names} <= {"a.py", "b.txt", "sub/c.py"}


@pytest.mark.parametrize(
    ("glob", "names"),
    [("*.py", ["a.py", "sub/c.py"]), ("**/*.py", ["a.py", "sub/c.py"]), ("sub/*", ["sub/c.py"]), ("c*", ["sub/c.py"])],
)
def test_a_glob_without_a_slash_is_of_names_and_one_with_it_of_paths(tree: Path, glob: str, names: list[str]) -> None:
    assert [name["path"] for name in found(tree, query(glob, "names"))[0]] == names


def test_lines_longer_than_memory_come_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 3_000_000 + b"needle\nneedle")
    matches, _ = found(tmp_path, query("needle"))
    assert [m["line"] for m in matches] == [1, 2]
    assert all(len(m["content"]) <= search.SHOWN for m in matches)
