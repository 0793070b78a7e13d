"""Every example runs as it stands, in a folder of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from services import missing

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_prints_what_the_readme_says(example: Path, tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    if "python3" in example.read_text("utf-8") and not Path("/usr/bin/python3").exists():
        missing("python3 in /usr, which the sandboxes of examples see")
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"```text\n{done.stdout}```" in (example.parent / "README.md").read_text("utf-8")
