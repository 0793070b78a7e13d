"""Settings come from arguments, the environment and one TOML file, and what is wrong with them is said by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from toolfleet.config.errors import SettingsError
from toolfleet.config.settings import Settings, load

HIDDEN = "hunter2-very-secret"
Toml = Callable[[str], Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that no ``toolfleet.toml`` of the developer's is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toml(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Toml:
    """Writes a TOML file and names it in ``TOOLFLEET_CONFIG``."""

    def write(text: str) -> Path:
        path = folder / "fleet.toml"
        path.write_text(text)
        monkeypatch.setenv("TOOLFLEET_CONFIG", str(path))
        return path

    return write


def refusal(**overrides: object) -> str:
    """The message with which the settings are refused."""
    with pytest.raises(SettingsError) as caught:
        load(**overrides)
    return str(caught.value)


class TestSources:
    def test_defaults_hold_when_nothing_speaks(self) -> None:
        settings = load()
        assert (settings.redis_url, settings.fleet, settings.slots) == (None, "default", 8)
        assert list(settings.profiles) == ["default"]

    def test_environment_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_SLOTS", "3")
        monkeypatch.setenv("TOOLFLEET_FLEET", "blue")
        assert (load().slots, load().fleet) == (3, "blue")

    def test_two_underscores_go_one_level_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_RETRIES__MAX", "7")
        monkeypatch.setenv("TOOLFLEET_PROFILES__GPU__MEMORY_MIB", "4096")
        settings = load()
        assert settings.retries.max == 7
        assert settings.retries.base == 2.0, "the other keys keep their defaults"
        assert settings.profile("gpu").memory_mib == 4096

    def test_a_nested_setting_may_be_one_json_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_PROFILES", '{"small": {"pids": 16}}')
        assert load().profile("small").pids == 16

    def test_the_named_toml_file_is_read(self, toml: Toml) -> None:
        toml('slots = 5\n[profiles.tests]\nmemory_mib = 64\nenv = { CI = "1" }\n')
        settings = load()
        assert settings.slots == 5
        assert settings.profile("tests").memory_mib == 64
        assert settings.profile("tests").env == {"CI": "1"}

    def test_toolfleet_toml_in_the_working_directory_is_read(self, folder: Path) -> None:
        (folder / "toolfleet.toml").write_text("slots = 6\n")
        assert load().slots == 6

    def test_the_named_file_replaces_the_one_in_the_working_directory(self, folder: Path, toml: Toml) -> None:
        (folder / "toolfleet.toml").write_text('slots = 6\nfleet = "here"\n')
        toml("slots = 7\n")
        assert (load().slots, load().fleet) == (7, "default")

    def test_arguments_win_over_environment_over_file(self, toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
        toml('slots = 1\nfleet = "file"\nheartbeat = 3.0\n')
        monkeypatch.setenv("TOOLFLEET_SLOTS", "2")
        monkeypatch.setenv("TOOLFLEET_FLEET", "environment")
        settings = load(slots=4)
        assert (settings.slots, settings.fleet, settings.heartbeat) == (4, "environment", 3.0)

    def test_environment_and_file_meet_within_one_profile(self, toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
        toml("[profiles.default]\nmemory_mib = 64\nwarm = 5\n")
        monkeypatch.setenv("TOOLFLEET_PROFILES__DEFAULT__WARM", "0")
        profile = load().profile("default")
        assert (profile.memory_mib, profile.warm) == (64, 0)

    def test_an_override_of_none_counts_as_not_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_SLOTS", "2")
        assert load(slots=None, fleet=None).slots == 2

    def test_an_empty_redis_url_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_REDIS_URL", "")
        assert load().redis_url is None

    def test_settings_are_frozen(self) -> None:
        with pytest.raises(ValidationError):
            load().slots = 9  # type: ignore[misc]


class TestUnknownKeys:
    def test_unknown_variable_is_refused_with_the_nearest_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_SLOST", "3")
        assert refusal() == "unknown environment variable TOOLFLEET_SLOST. Did you mean 'TOOLFLEET_SLOTS'?"

    @pytest.mark.parametrize("variable", ["TOOLFLEET_SLOTS__X", "TOOLFLEET_REDIS_URL__HOST", "TOOLFLEET_CONFIG__X"])
    def test_a_level_below_a_plain_setting_is_refused(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(variable, "3")
        assert f"unknown environment variable {variable}." in refusal()

    def test_unknown_variable_below_a_profile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_PROFILES__X__MEMROY_MIB", "64")
        assert refusal() == "unknown setting profiles.x.memroy_mib. Did you mean 'memory_mib'?"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("slotz = 3", "unknown setting slotz. Did you mean 'slots'?"),
            ("[profiles.x]\nmemroy_mib = 64", "unknown setting profiles.x.memroy_mib. Did you mean 'memory_mib'?"),
            ("[retries]\nmaxx = 1", "unknown setting retries.maxx. Did you mean 'max'?"),
        ],
    )
    def test_unknown_key_in_the_file_is_refused_with_the_nearest_one(self, text: str, message: str, toml: Toml) -> None:
        toml(text)
        assert refusal() == message

    def test_a_key_near_to_nothing_is_answered_with_those_there_are(self, toml: Toml) -> None:
        toml("[retries]\nzzzzzz = 1")
        assert refusal() == "unknown setting retries.zzzzzz. Known: base, cap, jitter, max."

    def test_every_wrong_key_is_named_at_once(self, toml: Toml) -> None:
        toml("slotz = 3\n[retries]\nmaxx = 1")
        assert refusal().count("unknown setting") == 2

    def test_unknown_argument_is_refused(self) -> None:
        assert "unknown setting slotz" in refusal(slotz=3)

    def test_unknown_profile_suggests_the_nearest(self) -> None:
        with pytest.raises(SettingsError, match=r"no profile named 'defualt'\. Did you mean 'default'\?"):
            load().profile("defualt")


class TestWrongValues:
    @pytest.mark.parametrize(
        ("variable", "value", "where"),
        [
            ("SLOTS", "many", "setting slots: "),
            ("SLOTS", "0", "setting slots: "),
            ("SLOTS", "", "setting slots: "),
            ("HEARTBEAT", "-1", "setting heartbeat: "),
            ("FLEET", "two words", "setting fleet: "),
            ("RETRIES__MAX", "99", "setting retries.max: "),
            ("RETRIES", "5", "setting retries: "),
            ("PROFILES__X__MEMORY_MIB", "big", "setting profiles.x.memory_mib: "),
            ("PROFILES__X__WORKDIR", "relative", "setting profiles.x.workdir: "),
            ("PROFILES__X__NETWORK", "all", "setting profiles.x.network: "),
        ],
    )
    def test_a_wrong_value_is_named_by_its_key(
        self, variable: str, value: str, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"TOOLFLEET_{variable}", value)
        assert refusal().startswith(where)

    @pytest.mark.parametrize(("variable", "value"), [("PROFILES", "{broken"), ("PROFILES__X__ENV", "A=1")])
    def test_a_variable_that_must_be_json_and_is_not(
        self, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"TOOLFLEET_{variable}", value)
        message = refusal()
        assert "profiles" in message
        assert "JSON" in message

    def test_a_wrong_type_in_the_file(self, toml: Toml) -> None:
        toml("[profiles]\nx = 3")
        assert refusal().startswith("setting profiles.x: ")


class TestFiles:
    def test_a_missing_file_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_CONFIG", "/nowhere/fleet.toml")
        assert refusal() == "TOOLFLEET_CONFIG names '/nowhere/fleet.toml', which is not a file"

    def test_a_folder_is_not_a_file(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_CONFIG", str(folder))
        assert "which is not a file" in refusal()

    def test_broken_toml_is_named_with_its_file(self, toml: Toml) -> None:
        path = toml("slots = [")
        assert refusal().startswith(f"cannot read {path}: ")

    def test_a_file_that_is_not_text_is_named(self, toml: Toml) -> None:
        path = toml("")
        path.write_bytes(b"\xff\xfe\x00")
        assert refusal().startswith(f"cannot read {path}: ")


class TestSecret:
    """The password in ``redis_url`` is in nothing that is printed or logged."""

    def test_not_in_any_text_of_the_settings(self) -> None:
        settings = load(redis_url=f"redis://:{HIDDEN}@host/0")
        for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
            assert HIDDEN not in text
        assert settings.redis_url is not None
        assert settings.redis_url.get_secret_value() == f"redis://:{HIDDEN}@host/0"

    @pytest.mark.parametrize("text", ['redis_url = ["redis://:{}@host"]', '[redis_url]\nx = "{}"'])
    def test_not_in_the_error_about_a_wrong_type(self, text: str, toml: Toml) -> None:
        toml(text.format(HIDDEN))
        message = refusal()
        assert "setting redis_url" in message
        assert HIDDEN not in message

    def test_not_in_the_error_about_another_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLFLEET_REDIS_URL", f"redis://:{HIDDEN}@host")
        monkeypatch.setenv("TOOLFLEET_SLOTS", "x")
        monkeypatch.setenv("TOOLFLEET_PROFILES", "{broken")
        with pytest.raises(SettingsError) as caught:
            load()
        assert HIDDEN not in f"{caught.value}{caught.value!r}"
        assert caught.value.__suppress_context__, "a traceback does not show the error that it came from"


def test_every_setting_says_what_it_is_for() -> None:
    """The source of each field is followed by a docstring, which is what the documentation is made of."""
    text = Path(__import__("inspect").getfile(Settings)).read_text()
    body = text.split("class Settings(BaseSettings)")[1].split("    @field_validator")[0]
    for field in Settings.model_fields:
        declared = body.index(f"\n    {field}: ")
        following = body.index("\n", declared + 1)
        if field not in ("retries", "breaker"):  # they say it in classes of their own
            assert body[following:].lstrip().startswith('"""'), field
