"""A unified diff that the `patch` program takes, whatever the texts are."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services import missing

from toolfleet.backends.runner.files import diff

_TEXT = st.lists(st.sampled_from(["a\n", "b\n", "\n", "c c\n", "x\r\n"]), max_size=30).map("".join)


def test_it_looks_as_everybody_knows_it() -> None:
    old = "".join(f"{n}\n" for n in range(1, 31))
    new = old.replace("\n5\n", "\nfive\n").replace("\n30\n", "\n30")
    assert diff.unified(old, new, "a/f", "b/f") == (
        "--- a/f\n+++ b/f\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
        "@@ -27,4 +27,4 @@\n 27\n 28\n 29\n-30\n+30\n\\ No newline at end of file\n"
    )
    assert diff.unified("", "a\n", "/dev/null", "b/f") == "--- /dev/null\n+++ b/f\n@@ -0,0 +1,1 @@\n+a\n"


def test_it_is_cut_and_says_so() -> None:
    text = diff.unified("", "x\n" * 100_000, "a", "b")
    assert len(text) < diff.SHOWN + 100
    assert text.endswith("characters omitted]\n")


def test_texts_made_to_be_hard_take_bounded_time() -> None:
    old, new = "".join(f"{n % 7}\n" for n in range(200_000)), "".join(f"{n % 5}\n" for n in range(200_000))
    assert diff.unified(old, new, "a", "b")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(_TEXT, _TEXT, st.booleans())
def test_the_patch_program_takes_it(tmp_path: Path, old: str, new: str, newline: bool) -> None:
    if shutil.which("patch") is None:
        missing("patch")
    if not newline:
        new = new.removesuffix("\n")
    text = diff.unified(old, new, "a/f", "b/f")
    file = tmp_path / "f"
    file.write_bytes(old.encode())
    if text:
        done = subprocess.run(
            ["patch", "--binary", "-s", str(file)], input=text.encode(), capture_output=True, check=False
        )
        assert done.returncode == 0, (text, done.stdout)
    assert (file.read_bytes() if file.exists() else b"") == new.encode()


@pytest.mark.parametrize("old", ["", "a", "a\n"])
def test_nothing_changed_gives_nothing(old: str) -> None:
    assert diff.unified(old, old, "a", "b") == ""
