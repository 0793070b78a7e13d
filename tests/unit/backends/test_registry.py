"""Backends by name."""

from pathlib import Path

import pytest

from toolfleet.backends import registry
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.config.errors import SettingsError


class Misnamed(BubblewrapBackend):
    """Its sandboxes say that they are of a backend that nobody knows."""

    name = "mine"


def test_a_backend_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    """Short names stand for paths."""
    assert isinstance(registry.load("bubblewrap", tmp_path), BubblewrapBackend)
    assert isinstance(registry.load("toolfleet.backends.bubblewrap:BubblewrapBackend", tmp_path), BubblewrapBackend)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bubblewarp", "known are bubblewrap.*Did you mean 'bubblewrap'"),
        ("x", "known are bubblewrap"),
        ("no.such.module:Class", "cannot be imported"),
        ("toolfleet.backends.bubblewrap:Missing", "has no Missing"),
        ("pathlib:Path", "not a backend"),
        (f"{__name__}:Misnamed", f"its name is 'mine', make it '{__name__}:Misnamed'"),
    ],
)
def test_a_wrong_name_is_explained(tmp_path: Path, name: str, words: str) -> None:
    """With what would be right."""
    with pytest.raises(SettingsError, match=words):
        registry.load(name, tmp_path)


def test_every_short_name_leads_to_a_backend(tmp_path: Path) -> None:
    """Of that name."""
    for name in registry.BACKENDS:
        assert registry.load(name, tmp_path).name == name
