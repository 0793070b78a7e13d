"""The shape of the repository: four folders, one namespace, files short enough to read."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["backends", "config", "producer", "workers"]
#: Lines of a file. Do not raise it: split the file.
LONGEST = 400


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_namespace_has_no_init_file(folder: str) -> None:
    """An ``__init__.py`` in one portion of the namespace would hide the other three."""
    assert (ROOT / folder / "toolfleet").is_dir()
    assert not list((ROOT / folder).glob("toolfleet/__init__.py*"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_portion_holds_one_typed_package_of_the_folders_name(folder: str) -> None:
    portions = [path.name for path in (ROOT / folder / "toolfleet").iterdir() if path.name != "__pycache__"]
    assert portions == [folder]
    assert (ROOT / folder / "toolfleet" / folder / "py.typed").exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_one_can_read(folder: str) -> None:
    files = [path for kind in ("*.py", "*.lua") for path in (ROOT / folder).rglob(kind)]
    assert files
    long = {str(path.relative_to(ROOT)): lines for path in files if (lines := _lines(path)) > LONGEST}
    assert not long


def _lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())
