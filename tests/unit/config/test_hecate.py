"""Variables of the predecessor complete a profile of the backend ``morph``, and nothing else."""

import pytest

from toolfleet.config.errors import SettingsError
from toolfleet.config.settings import load

_VARIABLES = {
    "HECATE_DEFAULT_SNAPSHOT_ID": "snapshot_abc",
    "HECATE_VM_TTL_SECONDS": "600",
    "HECATE_VM_LIFETIME_SECONDS": "300",
}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _VARIABLES.items():
        monkeypatch.setenv(name, value)


def test_they_fill_in_what_the_profile_leaves_out() -> None:
    profile = load(profiles={"vm": {"backend": "morph", "network": "bridge"}}).profile("vm")
    assert (profile.image, profile.morph.ttl, profile.idle_timeout) == ("snapshot_abc", 600, 300.0)
    assert profile.network == "bridge"


def test_what_the_profile_says_wins() -> None:
    said = {"backend": "morph", "image": "snapshot_x", "idle_timeout": 60, "morph": {"ttl": 900}}
    profile = load(profiles={"vm": said}).profile("vm")
    assert (profile.image, profile.morph.ttl, profile.idle_timeout) == ("snapshot_x", 900, 60.0)


def test_other_backends_do_not_know_them() -> None:
    profile = load(profiles={"default": {}}).profile("default")
    assert (profile.image, profile.idle_timeout) == (None, 3600.0)


def test_a_value_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HECATE_VM_TTL_SECONDS", "soon")
    with pytest.raises(SettingsError, match="HECATE_VM_TTL_SECONDS"):
        load(profiles={"vm": {"backend": "morph"}})
