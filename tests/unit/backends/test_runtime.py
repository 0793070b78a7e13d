"""The interpreter bundle."""

import io
import os
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolfleet.backends import runtime
from toolfleet.config.errors import BackendUnavailable


@pytest.fixture
def only_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place for bundles that the tests own."""
    root = tmp_path / "interpreters"
    monkeypatch.setattr(runtime, "_roots", lambda _: [root])
    monkeypatch.setattr(runtime, "_check_trust", lambda _: None)
    return root


def test_concurrent_builders_agree_on_one_bundle(only_here: Path, tmp_path: Path) -> None:
    """The first one wins, nothing else is left, and everybody may read it whatever the umask was."""
    umask = os.umask(0o077)
    try:
        with ThreadPoolExecutor(4) as pool:
            bundles = list(pool.map(runtime.ensure, [tmp_path] * 4))
    finally:
        os.umask(umask)
    assert len({bundle.path for bundle in bundles}) == 1
    assert [*only_here.iterdir()] == [bundles[0].path]
    closed = [path for path in bundles[0].path.rglob("*") if not path.stat().st_mode & 0o004]
    assert closed == []


def test_its_loader_loads_no_library_that_a_sandbox_names(only_here: Path, tmp_path: Path) -> None:
    """Root of a sandbox can write the list of those to load first, and would be within every program started later."""
    bundle = runtime.ensure(tmp_path)
    assert bundle.static or b"ld.so.preload" not in (bundle.path / "lib/loader").read_bytes()


def test_a_bundle_runs_anywhere(only_here: Path, tmp_path: Path) -> None:
    """Moved, with an empty environment, and with no module from outside."""
    bundle = runtime.ensure(tmp_path)
    moved = bundle.path.rename(tmp_path / "moved")
    command = bundle.argv(str(moved))
    command[command.index("-c") + 1] = (
        "import sys; from toolfleet.backends.runner import main, preload, relay, standalone; preload.preload();"
        "print([m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)])"
    )
    done = subprocess.run(command, capture_output=True, text=True, env={}, check=True)
    files = eval(done.stdout)  # noqa: S307 - our own list of strings
    assert files
    assert all(file.startswith(str(moved)) for file in files)


def test_a_packed_bundle_runs_where_it_is_unpacked(only_here: Path, tmp_path: Path) -> None:
    """For engines that share no file system with the worker."""
    bundle = runtime.ensure(tmp_path)
    packed = bundle.pack("/opt/there")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert {member.name.split("/")[:2] == ["opt", "there"] for member in tar.getmembers()} == {True}
        assert {(member.uid, member.uname) for member in tar.getmembers()} == {(0, "")}
    subprocess.run(["tar", "-x", "-z", "-f", "-", "-C", str(tmp_path)], input=packed, check=True)
    command = bundle.argv(str(tmp_path / "opt/there"), "/no/such/socket", program="relay")
    done = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
    assert (done.returncode, done.stderr) == (1, "no runner listens at /no/such/socket: No such file or directory\n")


def test_a_place_that_others_can_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could plant a bundle there would run in every sandbox's place."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setattr(runtime, "_roots", lambda _: [tmp_path / "open/interpreters"])
    with pytest.raises(BackendUnavailable, match="could be written by others"):
        runtime.ensure(tmp_path)


def test_the_key_changes_with_the_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An upgraded worker never starts an old runner."""
    before = runtime._key()
    (tmp_path / "main.py").write_text("other")
    monkeypatch.setattr(runtime, "_RUNNER", tmp_path)
    assert runtime._key() != before
