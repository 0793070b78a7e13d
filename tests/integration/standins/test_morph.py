"""The stand-in for MorphCloud, driven by the unmodified SDK: it really runs things, and fails as told."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from morphcloud.api import ApiError, Instance, InstanceStatus, MorphCloudClient
from services import missing
from standins.morph.process import StandIn, launch, running


def _homes() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("toolfleet-morph-*"))


def _machines() -> set[int]:
    """Numbers of the processes in which machines live or die: their PID 1."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if b"sleep 1000 & wait" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
    return found


def eventually(fact: Callable[[], bool], within: float = 20.0) -> None:
    """Wait until a fact holds."""
    until = time.monotonic() + within
    while not fact():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def cloud() -> Iterator[StandIn]:
    """A stand-in for all tests of this file."""
    for program in ("bwrap", "nsenter"):
        if shutil.which(program) is None:
            missing(program)
    before = _homes(), _machines()
    with running() as cloud:
        yield cloud
    assert (_homes(), _machines()) == before


@pytest.fixture
def client(cloud: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[MorphCloudClient]:
    """The SDK, led to the stand-in by nothing but its own variables."""
    for name, value in {**cloud.environment, "MORPH_HTTP_TRANSPORT_SHARDS": "1"}.items():
        monkeypatch.setenv(name, value)
    client = MorphCloudClient()
    yield client
    cloud.clear()
    for instance in client.instances.list():
        instance.stop()
    client._http_client.close()


@pytest.fixture
def instance(client: MorphCloudClient) -> Instance:
    """An instance of the base snapshot."""
    return client.instances.start("snapshot_base", metadata={"owner": "me"}, timeout=30)


def test_a_command_runs_as_root_with_its_own_exit_code_and_streams(instance: Instance) -> None:
    done = instance.exec("id -u; echo warn >&2; exit 3")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "0\n", "warn\n")
    assert instance.exec(["printf", "%s", "a b"]).stdout == "a b"


def test_a_streamed_command_tells_its_output_as_it_comes(instance: Instance) -> None:
    told: list[str] = []
    done = instance.exec("echo one; echo two >&2; exit 4", on_stdout=told.append, on_stderr=told.append)
    assert (done.exit_code, sorted(told)) == (4, ["one\n", "two\n"])


def test_files_and_processes_stay_and_are_the_machines_own(client: MorphCloudClient, instance: Instance) -> None:
    other = client.instances.start("snapshot_base", timeout=30)
    instance.exec("echo mine > /root/file; sleep 500 >/dev/null 2>&1 </dev/null &")
    assert instance.exec("cat /root/file; pgrep -c sleep").stdout == "mine\n2\n"
    assert other.exec("ls /root; pgrep -c sleep").stdout == "1\n"


def test_ssh_runs_commands_with_the_api_key(instance: Instance) -> None:
    with instance.ssh() as ssh:  # type: ignore[no-untyped-call]
        done = ssh.run("hostname; exit 3", get_pty=False)
    assert (done.returncode, done.stdout) == (3, f"{instance.id}\n")


def test_pausing_stops_everything_and_resuming_goes_on(instance: Instance) -> None:
    instance.exec("while :; do date +%N > /tick; sleep 0.01; done >/dev/null 2>&1 </dev/null &")
    instance.pause()
    assert instance.status == InstanceStatus.PAUSED
    with pytest.raises(ApiError, match="paused"):
        instance.exec("true")
    instance.resume()
    before = instance.exec("cat /tick").stdout
    eventually(lambda: instance.exec("cat /tick").stdout != before)


def test_a_branch_starts_with_the_same_files(client: MorphCloudClient, instance: Instance) -> None:
    instance.exec("echo v1 > /root/state")
    snapshot, branches = instance.branch(2)
    instance.wait_until_ready()
    assert [branch.exec("cat /root/state").stdout for branch in branches] == ["v1\n", "v1\n"]
    branches[0].exec("echo v2 > /root/state")
    assert branches[1].exec("cat /root/state").stdout == "v1\n"
    assert client.snapshots.get(snapshot.id).status == "ready"
    snapshot.delete()
    with pytest.raises(ApiError) as gone:
        client.instances.start(snapshot.id)
    assert gone.value.status_code == 404


def test_a_snapshot_is_found_by_its_digest(client: MorphCloudClient, instance: Instance) -> None:
    snapshot = instance.snapshot(digest="prepared-1", metadata={"kind": "base"})
    snapshot.wait_until_ready(timeout=30)
    assert [found.id for found in client.snapshots.list(digest="prepared-1")] == [snapshot.id]
    assert client.snapshots.list(metadata={"kind": "other"}) == []
    snapshot.set_ttl(1)
    eventually(lambda: client.snapshots.list(digest="prepared-1") == [])


@pytest.mark.parametrize(("action", "then"), [("stop", None), ("pause", InstanceStatus.PAUSED)])
def test_a_time_to_live_ends_or_pauses(client: MorphCloudClient, instance: Instance, action: str, then: object) -> None:
    instance.set_ttl(1, "stop" if action == "stop" else "pause")

    def ended() -> bool:
        try:
            return client.instances.get(instance.id).status == then
        except ApiError as error:
            return then is None and error.status_code == 404

    eventually(ended)


def test_instances_are_listed_by_metadata_and_by_page(client: MorphCloudClient, instance: Instance) -> None:
    others = [client.instances.start("snapshot_base", metadata={"owner": "you"}, timeout=30) for _ in range(3)]
    assert [found.id for found in client.instances.list(metadata={"owner": "me"})] == [instance.id]
    page = client.instances.list_paginated(page=2, limit=2, metadata={"owner": "you"})
    assert ([found.id for found in page.instances], page.total, page.has_next) == ([others[2].id], 3, False)
    instance.set_metadata({"owner": "nobody"})
    assert client.instances.list(metadata={"owner": "me"}) == []


def test_booting_takes_other_sizes(client: MorphCloudClient) -> None:
    instance = client.instances.boot("snapshot_base", vcpus=2, memory=2048)
    instance.wait_until_ready(timeout=30)
    assert (instance.spec.vcpus, instance.spec.memory, instance.spec.disk_size) == (2, 2048, 4096)


def test_a_wrong_key_is_turned_away(client: MorphCloudClient) -> None:
    stranger = MorphCloudClient(api_key="wrong")
    with stranger._http_client, pytest.raises(ApiError) as refused:
        stranger.instances.list()
    assert refused.value.status_code == 401


# -- what goes wrong as told ------------------------------------------------------------------------------------------


def test_a_lost_answer_makes_the_sdk_run_a_command_twice(cloud: StandIn, instance: Instance) -> None:
    cloud.fault("drop_after", r"/instance/\w+/exec")
    instance.exec("echo run >> /runs")
    assert instance.exec("cat /runs").stdout == "run\nrun\n"


def test_a_lost_request_runs_nothing(cloud: StandIn, instance: Instance) -> None:
    cloud.fault("drop_before", r"/instance/\w+/exec", count=2)
    with pytest.raises(httpx.RemoteProtocolError):
        instance.exec("echo run >> /runs")
    assert instance.exec("test -e /runs").exit_code == 1


def test_a_stream_that_breaks_off_looks_like_success_to_the_sdk(cloud: StandIn, instance: Instance) -> None:
    cloud.fault("truncate", r"/instance/\w+/exec/sse", events=1)
    done = instance.exec("echo begun; sleep 0.2; echo done; exit 9", on_stdout=lambda _: None)
    assert (done.exit_code, done.stdout) == (0, "begun\n")


def test_a_status_is_answered_as_often_as_told(cloud: StandIn, instance: Instance) -> None:
    cloud.fault("status", r"/instance/\w+/exec", status=429, count=2, headers={"Retry-After": "7"})
    for _ in range(2):
        with pytest.raises(ApiError) as refused:
            instance.exec("true")
        assert refused.value.status_code == 429
    assert instance.exec("true").exit_code == 0


def test_a_client_that_gives_up_leaves_its_command_running(instance: Instance) -> None:
    with pytest.raises(TimeoutError):
        instance.exec("sleep 0.5; echo done > /late", timeout=0.1)
    eventually(lambda: instance.exec("test -e /late").exit_code == 0)


def test_a_lost_instance_is_not_found_any_more(cloud: StandIn, instance: Instance) -> None:
    cloud.lose(instance.id)
    with pytest.raises(ApiError) as gone:
        instance.exec("true")
    assert gone.value.status_code == 404


# -- its end ----------------------------------------------------------------------------------------------------------


async def _machine_is_up(url: str, key: str) -> None:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        started = (await client.post(f"{url}/instance?snapshot_id=snapshot_base", json={})).json()
        while (await client.get(f"{url}/instance/{started['id']}")).json()["status"] != "ready":
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_it_is_told_to_stop(cloud: StandIn, number: signal.Signals) -> None:
    before = _homes(), _machines()
    with launch() as process:
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        asyncio.run(_machine_is_up(about["url"], about["api_key"]))
        process.send_signal(number)
        assert process.wait(30) == 0
    assert (_homes(), _machines()) == before


def test_nothing_is_left_when_its_parent_is_killed(cloud: StandIn) -> None:
    before = _homes(), _machines()
    parent = "import sys; from standins.morph.process import launch; p = launch(); "
    parent += "print(p.stdout.readline(), flush=True); sys.stdin.read()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        asyncio.run(_machine_is_up(about["url"], about["api_key"]))
        process.kill()
    eventually(lambda: (_homes(), _machines()) == before)


def test_what_a_killed_one_has_left_is_removed_by_the_next(cloud: StandIn) -> None:
    before = _homes(), _machines()
    with launch() as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert len(_homes() - before[0]) == 1
    with running():
        assert len(_homes() - before[0]) == 1
    assert (_homes(), _machines()) == before
