"""``toolfleet run``: from a file of trajectories to a file of results, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_home import Home

GOOD = {"trajectory_id": "t1", "calls": [{"name": "terminal", "arguments": {"command": "echo hi; exit 4"}}]}


def results(path: Path) -> list[dict[str, Any]]:
    """The output of a run."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *lines: object) -> Path:
    """A file of trajectories; strings are written as they are."""
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_every_call_has_one_result_and_nothing_is_left(home: Home) -> None:
    calls = [{"name": "terminal", "arguments": {"command": f"echo {n} | tee -a /tmp/all; exit {n}"}} for n in range(3)]
    source = write(home.folder / "in.jsonl", *({"trajectory_id": f"t{n}", "calls": calls} for n in range(5)))
    done = home.run("run", str(source), "--out", "out.jsonl", "--workers", "2", "--slots", "2")
    assert done.returncode == 0, done.stderr
    found = results(home.folder / "out.jsonl")
    assert sorted((r["trajectory_id"], r["call_index"]) for r in found) == [
        (f"t{t}", c) for t in range(5) for c in range(3)
    ]
    assert all(r["exit_code"] == r["call_index"] and r["stdout"] == f"{r['call_index']}\n" for r in found)
    assert "15 calls" in done.stdout
    assert "15/15 calls" in done.stderr
    home.wait_until_clean()


def test_a_malformed_line_is_named_with_its_number_and_the_rest_runs(home: Home) -> None:
    lines = ["{not json", GOOD, {"trajectory_id": "t2"}, "", {**GOOD, "setup": {"archive": "nowhere.tar"}}, "[1, 2]"]
    source = write(home.folder / "in.jsonl", *lines)
    done = home.run("run", str(source), "--out", "out.jsonl", "--workers", "1")
    assert done.returncode == 2
    for number, reason in ((1, "Invalid JSON"), (3, "calls: Field required"), (5, "no file"), (6, "")):
        assert f"in.jsonl:{number}: " in done.stderr
        assert reason in done.stderr
    assert [(r["trajectory_id"], r["exit_code"]) for r in results(home.folder / "out.jsonl")] == [("t1", 4)]


def test_infrastructure_failing_a_call_makes_the_exit_status_1(home: Home) -> None:
    (home.folder / "broken.tar").write_bytes(b"this is no archive")
    source = write(
        home.folder / "in.jsonl", {**GOOD, "setup": {"archive": "broken.tar"}}, {**GOOD, "trajectory_id": "t2"}
    )
    done = home.run("run", str(source), "--out", "out.jsonl", "--workers", "1")
    assert done.returncode == 1, done.stderr
    assert {r["trajectory_id"]: r["fault"] for r in results(home.folder / "out.jsonl")} == {
        "t1": "infrastructure",
        "t2": "none",
    }


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_leaves_nothing(home: Home, number: signal.Signals, status: int) -> None:
    calls = [{"name": "terminal", "arguments": {"command": command}} for command in ("echo hi", "sleep 300")]
    source = write(home.folder / "in.jsonl", *({"trajectory_id": f"t{n}", "calls": calls} for n in range(6)))
    process = home.start("run", str(source), "--out", "out.jsonl", "--workers", "2", "--slots", "2")
    out = home.folder / "out.jsonl"
    while not (out.exists() and len(out.read_text().splitlines()) >= 4):
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    process.communicate()
    assert process.returncode == status
    home.wait_until_clean()


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["--profile", "defualt"], {}, "Did you mean 'default'?"),
        ([], {"TOOLFLEET_SLOTTS": "3"}, "Did you mean 'TOOLFLEET_SLOTS'?"),
        ([], {"TOOLFLEET_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"}, "does not answer"),
        ([], {"TOOLFLEET_REDIS_URL": "http://127.0.0.1"}, "redis_url"),
        ([], {"TOOLFLEET_CONFIG": "/no/such.toml"}, "which is not a file"),
    ],
)
def test_a_wrong_setting_is_one_clear_sentence(
    home: Home, arguments: list[str], env: dict[str, str], says: str
) -> None:
    source = write(home.folder / "in.jsonl", GOOD)
    done = home.run("run", str(source), "--out", "out.jsonl", *arguments, **env)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    home.wait_until_clean()


def test_without_bubblewrap_the_reason_and_the_remedy_are_told(home: Home) -> None:
    tools = home.folder / "bin"
    tools.mkdir()
    for name in ("redis-server", "ldd", "sh", "dash", "bash"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=False).stdout.strip()
        if found:
            (tools / name).symlink_to(found)
    source = write(home.folder / "in.jsonl", GOOD)
    done = home.run("run", str(source), "--out", "out.jsonl", PATH=str(tools))
    assert done.returncode == 2, done.stderr
    assert "bubblewrap" in done.stderr
    assert "apt install bubblewrap" in done.stderr.replace("apt-get", "apt")
    assert "Traceback" not in done.stderr
    home.wait_until_clean()


def test_what_answers_but_is_not_redis_is_told_apart(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = write(home.folder / "in.jsonl", GOOD)
        process = home.start("run", str(source), "--out", "o", TOOLFLEET_REDIS_URL=f"redis://127.0.0.1:{port}")
        server.settimeout(20)
        while process.poll() is None:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            server.settimeout(2)
        _, err = process.communicate()
    assert process.returncode == 2
    assert f"127.0.0.1:{port}" in err
    assert "Traceback" not in err


def test_an_output_that_cannot_be_written_is_told_before_anything_starts(home: Home) -> None:
    source = write(home.folder / "in.jsonl", GOOD)
    done = home.run("run", str(source), "--out", "/no/such/folder/out.jsonl")
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert os.listdir(home.tmp) == []


def test_doctor_names_what_is_there(home: Home) -> None:
    done = home.run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "redis-server" in done.stdout
    assert "profile default" in done.stdout


def test_doctor_checks_a_backend_live(home: Home) -> None:
    checks = ["--check", "a-repeated-call-runs-once", "--check", "the-disk-limit-holds"]
    done = home.run("doctor", "--live", "default", *checks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 holds" in done.stdout
    assert os.listdir(home.tmp) == []
    for wrong in (["--live", "bubblewarp"], ["--live", "bubblewrap", "--check", "no-such-check"]):
        done = home.run("doctor", *wrong)
        assert done.returncode == 2
        assert "there " in done.stderr
