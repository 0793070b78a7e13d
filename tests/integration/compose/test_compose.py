"""docker-compose.yml: what it refuses, what it shows, and a fleet that is really brought up from it."""

import asyncio
import base64
import os
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from integration.compose.conftest import WORKERS
from integration.compose.project import ROOT, Project, compose, installed

from toolfleet.config.contract import Fault, Status
from toolfleet.producer import Fleet

#: The first test waits for images to be made, on a new machine for their packages as well.
pytestmark = pytest.mark.timeout(600)

#: Warm sandboxes of a worker, as deploy/docker.toml says.
WARM = 2


@pytest.mark.parametrize("absent", ["REDIS_PASSWORD", "FLOWER_BASIC_AUTH", None])
def test_every_compose_reads_the_file_and_names_the_password_that_is_missing(absent: str | None) -> None:
    given = {"REDIS_PASSWORD": "secret", "FLOWER_BASIC_AUTH": "me:secret"}
    env = {**os.environ, **{name: value for name, value in given.items() if name != absent}}
    for program in (compose(), *(command for command, _ in installed())):
        command = [*program, "--env-file", ".env.example", "config", "--quiet"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (absent is None), (program, done.stderr)
        assert absent is None or f"{absent} is missing. Set it in .env" in done.stderr


async def test_a_trainer_on_the_machine_uses_every_worker_by_url(project: Project, fleet: Fleet) -> None:
    for profile, kind in (("default", "worker"), ("container", "docker-worker")):
        trajectories = [fleet.trajectory(profile=profile) for _ in range(2 * WORKERS[kind])]
        written = await asyncio.gather(
            *(t.terminal(f"echo {n} > /tmp/mine && id -u", timeout=60) for n, t in enumerate(trajectories))
        )
        read = await asyncio.gather(*(t.read_file("/tmp/mine") for t in trajectories))
        assert project.redis_password not in (await trajectories[0].terminal("env; cat /proc/*/environ")).output
        assert [(r.status, r.fault) for r in written + read] == [(Status.OK, Fault.NONE)] * len(written + read)
        assert [str(n) in r.output for n, r in enumerate(read)] == [True] * len(read)
        # Two slots each: only all of them together could take so many at once.
        hosts = {container["Config"]["Hostname"] for container in project.containers(kind)}
        assert {r.worker_id.split("-")[0] for r in written} == hosts
        await asyncio.gather(*(t.close() for t in trajectories))


def test_flower_wants_the_password(project: Project) -> None:
    url = f"http://127.0.0.1:{project.flower_port}/"

    def status(credentials: str) -> int:
        token = base64.b64encode(credentials.encode()).decode()
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"} if credentials else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    until = time.monotonic() + 60
    while True:  # the port is open before Flower is behind it
        try:
            assert status("") == 401
            break
        except ConnectionError:
            assert time.monotonic() < until
            time.sleep(0.2)
    assert status("me:wrong") == 401
    assert status(f"me:{project.flower_password}") == 200


def test_no_password_is_in_a_command_a_process_or_a_log(project: Project) -> None:
    shown = project("ps", "--all", "--no-trunc") + project("top") + project("logs")
    shown += str([(c["Path"], c["Args"], c["Config"]["Labels"]) for c in project.containers()])
    assert "toolfleet worker" in shown
    assert project.redis_password not in shown
    assert project.flower_password not in shown


def test_only_this_machine_is_offered_a_port_and_nobody_has_privileges(project: Project) -> None:
    for container in project.containers():
        host = container["HostConfig"]
        published = [binding for bindings in (host["PortBindings"] or {}).values() for binding in bindings]
        assert {binding["HostIp"] for binding in published} <= {"127.0.0.1"}
        assert (host["Privileged"], host["CapDrop"], host["CapAdd"]) == (False, ["ALL"], None)
        assert host["ReadonlyRootfs"]


async def test_every_container_becomes_healthy(project: Project) -> None:
    async with asyncio.timeout(100):
        while {c["State"]["Health"]["Status"] for c in project.containers()} != {"healthy"}:
            await asyncio.sleep(0.5)


async def test_redis_keeps_its_word_over_a_restart(project: Project, fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        assert (await t.terminal("echo kept > /tmp/mine")).ok
        await asyncio.to_thread(project, "restart", "redis")
        assert "kept" in (await t.read_file("/tmp/mine")).output


@pytest.mark.parametrize(("profile", "kind"), [("default", "worker"), ("container", "docker-worker")])
async def test_killing_a_container_is_told_and_the_trajectories_go_on(
    project: Project, fleet: Fleet, profile: str, kind: str
) -> None:
    alive = project.containers(kind, running=True)
    # As many as the others have slots for.
    trajectories = [fleet.trajectory(profile=profile) for _ in range(2 * (len(alive) - 1))]
    first = await asyncio.gather(*(t.terminal("echo kept > /tmp/mine", timeout=60) for t in trajectories))
    assert all(r.ok for r in first), first
    victim = first[0].worker_id
    if kind == "docker-worker":
        # What it was about to make would stay, see docs/backends.md: wait until its warm sandboxes are complete again.
        taken = [r for r in first if r.worker_id == victim]
        async with asyncio.timeout(30):
            while [c["State"] for c in project.sandboxes(victim)] != ["running"] * (len(taken) + WARM):
                await asyncio.sleep(0.1)
    container = next(c["Id"] for c in alive if victim.startswith(c["Config"]["Hostname"]))
    project.client.kill(container)
    for t, before in zip(trajectories, first, strict=True):
        result = await t.terminal("cat /tmp/mine", timeout=60)
        if result.status is Status.LOST:
            assert before.worker_id == victim
            assert result.fault is Fault.INFRASTRUCTURE
            result = await t.terminal("test ! -e /tmp/mine", timeout=60)
        assert result.ok, result
        assert result.worker_id != victim
    await asyncio.gather(*(t.close() for t in trajectories))
