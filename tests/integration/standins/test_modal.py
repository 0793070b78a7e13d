"""The stand-in for Modal, driven by the unmodified SDK."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import modal
import pytest
from fleet_processes import wait_until
from standins.modal.client import StandIn

Create = Callable[..., Awaitable[Any]]


@pytest.fixture
def standin(modal_cloud: StandIn) -> StandIn:
    """The stand-in."""
    return modal_cloud


@pytest.fixture
async def client(standin: StandIn) -> AsyncIterator[Any]:
    """A client of this test."""
    token, secret = standin.env["MODAL_TOKEN_ID"], standin.env["MODAL_TOKEN_SECRET"]
    client = await modal.Client.from_credentials.aio(token, secret)
    yield client
    await client.close.aio()


@pytest.fixture
async def app(client: Any) -> Any:
    """The app that all sandboxes belong to."""
    return await modal.App.lookup.aio("tests", client=client, create_if_missing=True)


@pytest.fixture
async def create(standin: StandIn, client: Any, app: Any) -> AsyncIterator[Create]:
    """Makes sandboxes, which end with the test."""

    async def create(*args: str, image: Any = None, **options: Any) -> Any:
        image = image or modal.Image.from_registry("debian:bookworm-slim")
        return await modal.Sandbox.create.aio(*args, app=app, image=image, client=client, **options)

    yield create
    for sandbox in standin.do("sandboxes"):
        standin.do("end", sandbox_id=sandbox["id"], status="TERMINATED")


async def sh(sandbox: Any, command: str, stdin: bytes = b"", **options: Any) -> tuple[bytes, bytes, int]:
    """Both streams and the exit code of a shell command."""
    process = await sandbox.exec.aio("sh", "-c", command, text=False, **options)
    process.stdin.write(stdin)
    process.stdin.write_eof()
    await process.stdin.drain.aio()
    return await process.stdout.read.aio(), await process.stderr.read.aio(), await process.wait.aio()


async def test_a_command_has_three_streams_and_an_exit_code(create: Create) -> None:
    """Binary, with variables and a directory of its own."""
    sandbox = await create(env={"A": "outer"})
    assert await sh(sandbox, "cat; echo $A$B >&2; exit 7", b"\x00\xff" * 70_000, env={"B": "inner"}) == (
        b"\x00\xff" * 70_000,
        b"outerinner\n",
        7,
    )
    assert (await sh(sandbox, "pwd", workdir="/tmp"))[0] == b"/tmp\n"
    assert (await sh(sandbox, "kill -9 $$"))[2] == 137


async def test_a_sandbox_is_a_tree_of_its_own(create: Create, standin: StandIn) -> None:
    """Files, processes and network; its own files stay from command to command."""
    one, two = await create(block_network=True), await create()
    await sh(one, "echo mine > /root/file; sleep 600 >/dev/null 2>&1 &")
    assert (await sh(one, "cat /root/file; ps ax -o args= | grep -c '[s]leep 600'"))[0] == b"mine\n1\n"
    assert (await sh(two, "ls /root; ps ax -o args= | grep -c '[s]leep 600'"))[0] == b"0\n"
    assert (await sh(one, f"ls {standin.folder}"))[2] != 0
    assert (await sh(one, "cat /proc/net/dev | grep -vc lo:"))[0] == b"2\n"


async def test_an_image_can_be_a_tree_with_local_files_in_it(create: Create, tmp_path: Path) -> None:
    """Large files go by the blob store, and modes are kept."""
    (tmp_path / "run").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "large").write_bytes(b"x" * 5_000_000)
    image = modal.Image.from_registry("tree:1").add_local_dir(tmp_path, "/opt/local")
    sandbox = await create(image=image)
    assert (await sh(sandbox, "cat /marker; /opt/local/run; wc -c < /opt/local/large"))[0] == b"a treeran\n5000000\n"


async def test_secrets_and_volumes(create: Create, client: Any, standin: StandIn) -> None:
    """Secrets become variables; what is written to a volume is there in the next sandbox."""
    standin.do("secret", name="keys", env={"KEY": "k"})
    volume = modal.Volume.from_name("shared", create_if_missing=True, client=client)
    options: dict[str, Any] = {"secrets": [modal.Secret.from_name("keys", client=client)], "volumes": {"/data": volume}}
    assert (await sh(await create(**options), "echo $KEY | tee /data/file"))[0] == b"k\n"
    assert (await sh(await create(**options), "cat /data/file"))[0] == b"k\n"


async def test_the_entrypoint_has_streams_too_and_its_end_is_the_sandboxes(create: Create) -> None:
    """Of both versions."""
    for options in ({}, {"gpu": "T4"}):
        sandbox = await create("sh", "-c", "read line; echo got $line; exit 5", **options)
        sandbox.stdin.write(b"this\n")
        await sandbox.stdin.drain.aio()
        assert await sandbox.stdout.read.aio() == "got this\n"
        await sandbox.wait.aio(raise_on_termination=False)
        assert sandbox.returncode == 5
        assert sandbox.object_id.startswith("sb-v2-") is (options == {})


async def test_a_sandbox_of_the_first_version_runs_commands(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose ids have another shape."""
    monkeypatch.setenv("MODAL_SANDBOX_V2", "0")
    sandbox = await create(tags={"v": "1"})
    assert len(sandbox.object_id) == 25
    assert (await sh(sandbox, "echo hi"))[0] == b"hi\n"
    assert await sandbox.get_tags.aio() == {"v": "1"}


async def test_output_goes_on_where_a_cut_has_left_it(create: Create, standin: StandIn) -> None:
    """Nothing twice and nothing missing."""
    sandbox = await create()
    process = await sandbox.exec.aio(
        "sh", "-c", "echo one; while [ ! -e /go ]; do sleep 0.01; done; echo two", text=False
    )
    chunks = aiter(process.stdout)
    assert await anext(chunks) == b"one\n"
    assert standin.do("cut") > 0
    await sh(sandbox, "touch /go")
    assert await anext(chunks) == b"two\n"
    assert await process.wait.aio() == 0


@pytest.mark.parametrize("honoured", [True, False])
async def test_a_lost_answer_to_create_is_repeated(create: Create, standin: StandIn, honoured: bool) -> None:
    """By the SDK; whether that makes a second sandbox depends on the idempotency key being honoured."""
    standin.do("idempotency", on=honoured)
    standin.fault("SandboxCreateV2", when="after", kind="drop")
    sandbox = await create()
    assert await sh(sandbox, "true") == (b"", b"", 0)
    assert len(standin.do("sandboxes")) == (1 if honoured else 2)


async def test_a_command_whose_answer_is_lost_runs_once(create: Create, standin: StandIn) -> None:
    """Its id is known by then. So does its input arrive once."""
    sandbox = await create()
    for rpc in ("TaskExecStart", "TaskExecStdinWrite"):
        standin.fault(rpc, when="after", count=2)
    assert (await sh(sandbox, "echo ran >> /log; cat; cat /log", b"input\n"))[0] == b"input\nran\n"


async def test_throttling_is_waited_out_only_with_a_policy(create: Create, standin: StandIn) -> None:
    """Without one it is an error at once."""
    standin.fault("SandboxCreateV2", status="RESOURCE_EXHAUSTED")
    with pytest.raises(modal.exception.ResourceExhaustedError):
        await create()
    standin.fault("SandboxCreateV2", status="RESOURCE_EXHAUSTED", retry_after=0.1, count=2)
    assert await sh(await create(), "true") == (b"", b"", 0)


async def test_sandboxes_are_listed_by_tags_over_several_pages(create: Create, client: Any, app: Any) -> None:
    """And no more once they have ended."""
    made = await asyncio.gather(*(create("sleep", "600", tags={"run": "a", "n": str(n)}) for n in range(12)))
    await made[0].set_tags.aio({"run": "b"})
    await made[1].terminate.aio()
    await made[1].wait.aio(raise_on_termination=False)

    async def listed(**tags: str) -> set[str]:
        sandboxes = modal.Sandbox.list.aio(app_id=app.app_id, tags=tags, client=client)
        return {sandbox.object_id async for sandbox in sandboxes}

    assert await listed(run="a") == {sandbox.object_id for sandbox in made[2:]}
    assert await listed(run="a", n="5") == {made[5].object_id}
    assert await listed(run="b") == {made[0].object_id}


async def test_a_snapshot_is_an_image(create: Create, client: Any) -> None:
    """With the files of that moment."""
    sandbox = await create()
    await sh(sandbox, "echo before > /root/file; ln -s file /root/link; chmod 600 /root/file")
    image = await sandbox.snapshot_filesystem.aio()
    await sh(sandbox, "echo after > /root/file")
    for source in (image, modal.Image.from_id(image.object_id, client)):
        fork = await create(image=source)
        assert (await sh(fork, "cat /root/link; stat -c %a /root/file"))[0] == b"before\n600\n"
    await modal.experimental.image_delete.aio(image.object_id, client=client)
    with pytest.raises(modal.exception.NotFoundError):
        await create(image=modal.Image.from_id(image.object_id, client))


async def test_a_sandbox_ends_at_its_timeout(create: Create) -> None:
    """Whatever it does."""
    sandbox = await create(timeout=1)
    with pytest.raises(modal.exception.SandboxTimeoutError):
        await sandbox.wait.aio()
    with pytest.raises(modal.exception.NotFoundError):
        await sandbox.exec.aio("true")


async def test_a_sandbox_ends_when_it_is_idle(create: Create) -> None:
    """Not while a command runs; and the SDK raises nothing."""
    sandbox = await create(idle_timeout=1)
    assert (await sh(sandbox, "sleep 1.5; echo busy"))[0] == b"busy\n"
    await sandbox.wait.aio()
    assert sandbox.returncode == 0


@pytest.mark.parametrize("status", ["KERNEL_OOM_KILL", "INTERNAL_FAILURE", "TERMINATED"])
async def test_a_sandbox_can_be_made_to_end(create: Create, standin: StandIn, status: str) -> None:
    """With a status of the cloud's own; its commands end without an exit code."""
    sandbox = await create()
    process = await sandbox.exec.aio("sleep", "600", text=False)
    standin.do("end", sandbox_id=sandbox.object_id, status=status)
    with pytest.raises(modal.exception.NotFoundError):
        await process.wait.aio()
    await sandbox.wait.aio(raise_on_termination=False)


async def test_a_lost_worker_takes_the_sandbox_with_it(create: Create, client: Any, standin: StandIn) -> None:
    """Nobody knows it any more."""
    sandbox = await create()
    process = await sandbox.exec.aio("sleep", "600", text=False)
    waiting = asyncio.create_task(process.wait.aio())
    standin.do("lose", sandbox_id=sandbox.object_id)
    with pytest.raises(modal.exception.NotFoundError):
        await waiting
    with pytest.raises(modal.exception.NotFoundError):
        await sandbox.wait.aio()
    with pytest.raises(modal.exception.NotFoundError):
        await modal.Sandbox.from_id.aio(sandbox.object_id, client=client)


async def test_a_command_is_killed_at_its_own_timeout(create: Create) -> None:
    """Its exit code is then not one of the command."""
    sandbox = await create()
    process = await sandbox.exec.aio("sleep", "600", timeout=1, text=False)
    assert await process.wait.aio() in (-1, 137)
    gone = await sandbox.exec.aio("sh", "-c", "until ! pgrep -fx 'sleep 600'; do sleep 0.01; done", text=False)
    assert await gone.wait.aio() == 0


@pytest.mark.parametrize("ending", ["SIGTERM", "parent"])
def test_nothing_is_left_behind(modal_server: StandIn, ending: str) -> None:
    """No process and no file: after a signal, and after the end of the process that started it."""
    script = """
import json, os, signal, sys
from standins.modal.client import running
with running() as standin:
    os.environ.update(standin.env)
    import modal
    app = modal.App.lookup("x", create_if_missing=True)
    sandbox = modal.Sandbox.create("sleep", "600", app=app)
    sandbox.exec("sleep", "601")
    about = [standin.process.pid, standin.do("sandboxes")[0]["pid"], str(standin.folder)]
    print(json.dumps(about), flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as parent:
        assert parent.stdout is not None
        pid, inner, folder = json.loads(parent.stdout.readline())
        assert Path(f"/proc/{inner}").exists()
        if ending == "SIGTERM":
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{inner}").exists() and not Path(folder).exists())
        parent.communicate(b"\n")
    wait_until(lambda: not any(Path(path).exists() for path in (f"/proc/{pid}", f"/proc/{inner}", folder)))
