"""H3, H4: without the SDK or the key the terminal says so, and runs nothing."""

import json

import pytest

from toolfleet.config.hecate import default_profile, lacking
from toolfleet.config.profile import Profile
from toolfleet.producer.adapters.hecate import check_hecate_requirements, hecate_settings, terminal_hecate_tool


def test_without_a_key_it_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MORPH_API_KEY", raising=False)
    assert not check_hecate_requirements()
    said = json.loads(terminal_hecate_tool("echo hi"))
    assert said["error"]
    assert said == {"output": "", "exit_code": -1, "error": said["error"], "status": "disabled"}


def test_settings_that_are_wrong_disable_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLFLEET_SLOTS", "many")
    assert not check_hecate_requirements()
    assert "slots" in json.loads(terminal_hecate_tool("echo hi"))["error"]


def test_a_fleet_elsewhere_has_the_key_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLFLEET_REDIS_URL", "redis://nowhere.invalid")
    assert check_hecate_requirements()


def test_what_is_lacking_is_named() -> None:
    vm = Profile(backend="morph")
    assert lacking(Profile(), {}) == ""
    assert lacking(vm, {}) in (
        "MORPH_API_KEY is not set",
        "the SDK of MorphCloud is not installed: pip install 'toolfleet[morph]'",
    )


def test_a_private_fleet_without_the_profile_gets_the_predecessors(monkeypatch: pytest.MonkeyPatch) -> None:
    """H3: the predecessor's variables and defaults."""
    profile = hecate_settings().profile("hecate")
    assert (profile.backend, profile.image, profile.idle_timeout) == ("morph", "snapshot_defv9tjg", 300.0)
    assert (profile.morph.ttl, profile.network) == (1200, "bridge")
    monkeypatch.setenv("HECATE_DEFAULT_SNAPSHOT_ID", "snapshot_mine")
    monkeypatch.setenv("HECATE_VM_LIFETIME_SECONDS", "60")
    monkeypatch.setenv("HECATE_VM_TTL_SECONDS", "600")
    profile = hecate_settings().profile("hecate")
    assert (profile.image, profile.idle_timeout, profile.morph.ttl) == ("snapshot_mine", 60.0, 600)


def test_a_profile_that_is_configured_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLFLEET_PROFILES", '{"hecate": {"backend": "bubblewrap"}}')
    assert hecate_settings().profile("hecate").backend == "bubblewrap"
    assert check_hecate_requirements()


def test_the_default_is_a_profile() -> None:
    assert Profile.model_validate(default_profile({})).backend == "morph"
