"""711 calls that a real model made, replayed on a fleet: the results are those that were recorded."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_home import Home
from rootfs import debian
from services import missing

REPOSITORY = Path(__file__).parents[3]
RECORDED = REPOSITORY / "examples/intercode/gpt4-fs12.jsonl"


@pytest.fixture(scope="module")
def rootfs() -> Path:
    """A minimal Debian like the one of the recording; made once and kept in the cache."""
    if shutil.which("mkfs.ext4") is None:
        missing("mkfs.ext4, for storage on disk")
    return debian()


def as_recorded(result: dict[str, Any], expect: dict[str, Any]) -> bool:
    """Exit code and stdout, as a multiset of lines: directory order is the file system's own."""
    lines = Counter(result["stdout"].splitlines()), Counter(expect["stdout"].splitlines())
    return lines[0] == lines[1] and result["exit_code"] == expect["exit_code"]


@pytest.mark.timeout(600)
def test_recorded_calls_give_what_was_recorded(home: Home, rootfs: Path) -> None:
    (home.folder / "toolfleet.toml").write_text(f'[profiles.recorded]\nrootfs = "{rootfs}"\nstorage = "disk"\n')
    done = home.run("run", str(RECORDED), "--out", "out.jsonl", "--workers", "2", "--profile", "recorded")
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (home.folder / "out.jsonl").read_text().splitlines()]
    expected = {
        (trajectory["trajectory_id"], index): call["expect"]
        for trajectory in map(json.loads, RECORDED.read_text().splitlines())
        for index, call in enumerate(trajectory["calls"])
    }
    places = [(r["trajectory_id"], r["call_index"]) for r in results]
    assert len(places) == len(set(places)) == len(expected) == 711
    assert len({r["call_id"] for r in results}) == 711
    assert {r["fault"] for r in results} <= {"none", "policy"}
    comparable = [(r, e) for r, place in zip(results, places, strict=True) if (e := expected[place]) is not None]
    differing = [(r["trajectory_id"], r["call_index"]) for r, e in comparable if not as_recorded(r, e)]
    assert len(comparable) == 647
    assert len(differing) <= 7, differing
    home.wait_until_clean()
