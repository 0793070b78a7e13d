"""711 calls that a real model made, replayed on a fleet: the results are those that were recorded."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_home import Home
from docker_engine import DEBIAN
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


def replay(home: Home, profile: str, **env: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Every recorded call's result, after a run on a fleet with ``profile``."""
    (home.folder / "toolfleet.toml").write_text(f"[profiles.recorded]\n{profile}\n")
    done = home.run("run", str(RECORDED), "--out", "out.jsonl", "--workers", "2", "--profile", "recorded", **env)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (home.folder / "out.jsonl").read_text().splitlines()]
    places = {(r["trajectory_id"], r["call_index"]): r for r in results}
    assert len(results) == len(places) == 711
    assert len({r["call_id"] for r in results}) == 711
    assert {r["fault"] for r in results} <= {"none", "policy"}
    return places


def expected() -> dict[tuple[str, int], dict[str, Any]]:
    """What was recorded, where that can be compared."""
    return {
        (trajectory["trajectory_id"], index): call["expect"]
        for trajectory in map(json.loads, RECORDED.read_text().splitlines())
        for index, call in enumerate(trajectory["calls"])
        if call["expect"] is not None
    }


@pytest.mark.timeout(600)
def test_recorded_calls_give_what_was_recorded(home: Home, rootfs: Path) -> None:
    results = replay(home, f'rootfs = "{rootfs}"\nstorage = "disk"')
    recorded = expected()
    assert len(recorded) == 647
    differing = [place for place, expect in recorded.items() if not as_recorded(results[place], expect)]
    assert len(differing) <= 7, differing
    home.wait_until_clean()


@pytest.mark.timeout(600)
def test_containers_give_what_bubblewrap_gives(home: Home, rootfs: Path, docker_url: str) -> None:
    """The same image, the same calls, the same results."""
    options = '[profiles.recorded.docker]\nuser = "root"\nunlimited_disk = true'
    profile = f'backend = "docker"\nimage = "{DEBIAN}"\nstorage = "disk"\n{options}'
    results = replay(home, profile, DOCKER_HOST=docker_url)
    recorded = expected()
    differing = [place for place, expect in recorded.items() if not as_recorded(results[place], expect)]
    assert len(differing) <= 7, differing
    home.wait_until_clean()
