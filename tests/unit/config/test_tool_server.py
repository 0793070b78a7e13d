"""Where the ToolServer is: settings, the predecessor's variables, and what no message shows."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from toolfleet.config.errors import SettingsError
from toolfleet.config.settings import load
from toolfleet.producer.embedded import EmbeddedFleet

OLD = {
    "TOOL_EXECUTOR_TOOL_SERVER_URL": "http://old:9002",
    "TOOL_EXECUTOR_TOOL_SERVER_TOKEN": "executors-token",
    "TOOL_SERVER_TOKEN": "servers-token",
    "TOOL_SERVER_MAX_CONCURRENCY": "3",
}


@pytest.fixture
def _old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in OLD.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.usefixtures("_old")
def test_the_predecessors_variables_fill_what_is_not_given() -> None:
    settings = load()
    assert (settings.tool_server_url, settings.tool_server_concurrency) == ("http://old:9002", 3)
    assert settings.tool_server_token == SecretStr("executors-token")


@pytest.mark.usefixtures("_old")
def test_a_setting_is_stronger_than_a_predecessors_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLFLEET_TOOL_SERVER_TOKEN", "ours")
    settings = load(tool_server_url="http://new:1", tool_server_concurrency=7)
    assert (settings.tool_server_url, settings.tool_server_concurrency) == ("http://new:1", 7)
    assert settings.tool_server_token == SecretStr("ours")


def test_a_servers_token_serves_where_there_is_no_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_SERVER_TOKEN", "servers-token")
    assert load().tool_server_token == SecretStr("servers-token")


@pytest.mark.parametrize(
    ("url", "taken"),
    [("http://x:1/", "http://x:1"), ("https://x/tools", "https://x/tools"), ("inprocess", "inprocess"), ("", None)],
)
def test_a_url_that_a_worker_can_use(url: str, taken: str | None) -> None:
    assert load(tool_server_url=url).tool_server_url == taken


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:9002", "give http://host:port"),
        ("ftp://x", "give http://host:port"),
        ("http://", "give http://host:port"),
        ("http://me:pass@x:1", "put the secret into tool_server_token"),
    ],
)
def test_a_url_that_it_cannot_use(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match="setting tool_server_url") as caught:
        load(tool_server_url=url)
    assert says in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_an_empty_token_is_none() -> None:
    assert load(tool_server_token="").tool_server_token is None


def test_a_module_is_a_name_and_no_path() -> None:
    assert load(tools=["a.b_c", "d"]).tools == ("a.b_c", "d")
    with pytest.raises(SettingsError, match="tools"):
        load(tools=["my/tools.py"])


def test_the_token_is_in_no_text_of_the_settings_but_reaches_embedded_workers(tmp_path: Path) -> None:
    settings = load(tool_server_token="s3cret-token", tool_server_allow=["10.0.0.0/8"])
    assert "s3cret" not in f"{settings} {settings!r} {settings.model_dump_json()}"
    fleet = EmbeddedFleet(settings, 1)
    fleet._folder = tmp_path
    env = fleet._env("unix:///nowhere")
    token = settings.tool_server_token
    assert token is not None
    assert env["TOOLFLEET_TOOL_SERVER_TOKEN"] == token.get_secret_value()
    assert env["TOOLFLEET_TOOL_SERVER_ALLOW"] == '["10.0.0.0/8"]'
