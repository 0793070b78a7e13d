"""A worker that uses sandboxes of Modal's cloud, here the stand-in, for one trajectory after another."""

import asyncio
import json
from typing import Any

import pytest
from fleet_processes import wait_until, worker
from standins.modal.client import StandIn

from toolfleet.config.contract import Status
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet, Trajectory


def profile(**fields: Any) -> dict[str, Any]:
    """A profile whose sandboxes come back; ``modal`` adds to its options."""
    modal = {"unlimited_disk": True, "pooled": True, **fields.pop("modal", {})}
    return {
        "backend": "modal", "image": "debian:bookworm-slim", "storage": "disk", "warm": 0, "modal": modal, **fields
    }  # fmt: skip


def environment(cloud: StandIn, **profiles: dict[str, Any]) -> dict[str, str]:
    """Variables of a worker with these profiles."""
    return {**cloud.env, "TOOLFLEET_PROFILES": json.dumps(profiles)}


def made(cloud: StandIn) -> list[str]:
    """The sandboxes that run."""
    return sorted(sandbox["id"] for sandbox in cloud.do("sandboxes"))


async def until_ready(fleet: Fleet, count: int, name: str = "default") -> None:
    """Wait until so many sandboxes wait for a trajectory."""
    while (await fleet.state.workers())["w1"].get(f"warm:{name}") != str(count):
        await asyncio.sleep(0.02)


async def dirty(t: Trajectory) -> str:
    """Leave what a later trajectory must not see; the name of the machine that it ran on."""
    done = await t.terminal(
        "cd; touch .hidden file; ln -s /etc dir; mkdir -m 0 shut; echo x > /tmp/.x; echo x > /dev/shm/x; "
        "(setsid sleep 9001 > /dev/null 2>&1 &); export LEFT=1"
    )
    assert done.status is Status.OK, done
    return done.worker_id


async def clean(t: Trajectory) -> None:
    """Nothing of it is to be seen."""
    seen = await t.terminal("ls -A /root /tmp /var/tmp /dev/shm | grep -v : | xargs; pgrep -c sleep; echo $LEFT")
    assert (seen.status, seen.stdout) == (Status.OK, "\n0\n\n"), seen


async def test_the_next_one_gets_the_same_sandbox_and_sees_nothing_of_the_last(
    settings: Settings, redis_url: str, modal_cloud: StandIn
) -> None:
    """Defect 33: hidden files, links, /tmp, $HOME, processes; however often, and up to max_uses."""
    with worker("w1", redis_url, **environment(modal_cloud, default=profile(modal={"max_uses": 3}))):
        async with Fleet.connect(settings) as fleet:
            seen = []
            for number in range(4):
                async with fleet.trajectory() as t:
                    await clean(t)
                    await dirty(t)
                    seen += made(modal_cloud)
                await until_ready(fleet, 0 if number == 2 else 1)
            assert len(set(seen[:3])) == 1
            assert seen[3] != seen[0]
    wait_until(lambda: made(modal_cloud) == [])


async def test_one_that_is_not_proven_clean_is_destroyed(
    settings: Settings, redis_url: str, modal_cloud: StandIn
) -> None:
    with worker("w1", redis_url, **environment(modal_cloud, default=profile())):
        async with Fleet.connect(settings) as fleet:
            async with fleet.trajectory() as t:
                await t.terminal("echo evil >> /etc/passwd")
                (first,) = made(modal_cloud)
            wait_until(lambda: made(modal_cloud) == [])
            async with fleet.trajectory() as t:
                assert (await t.terminal("grep -c evil /etc/passwd")).stdout == "0\n"
                assert first not in made(modal_cloud)
    wait_until(lambda: made(modal_cloud) == [])


async def test_one_made_for_a_profile_serves_no_other(settings: Settings, redis_url: str, modal_cloud: StandIn) -> None:
    """Defect 29: image and resources are part of what is asked for."""
    profiles = {"default": profile(), "larger": profile(memory_mib=2048), "other": profile(image="tree:1")}
    with worker("w1", redis_url, slots="3", **environment(modal_cloud, **profiles)):
        async with Fleet.connect(settings) as fleet:
            for count, name in enumerate(profiles, start=1):
                async with fleet.trajectory(profile=name) as t:
                    assert (await t.terminal("cat /marker || true")).stdout == ("a tree" if name == "other" else "")
                await until_ready(fleet, 1, name)
                assert len(made(modal_cloud)) == count
    wait_until(lambda: made(modal_cloud) == [])


@pytest.mark.parametrize("how", ["ended", "old"])
async def test_one_that_has_died_or_is_old_serves_nobody(
    settings: Settings, redis_url: str, modal_cloud: StandIn, how: str
) -> None:
    """Defect 30: looked at when it is handed out, and aged out; nothing stays when the worker goes."""
    chosen = profile(**({"warm_age": 1.0} if how == "old" else {}))
    with worker("w1", redis_url, **environment(modal_cloud, default=chosen)):
        async with Fleet.connect(settings) as fleet:
            async with fleet.trajectory() as t:
                await t.terminal("true")
                (first,) = made(modal_cloud)
            if how == "ended":
                await until_ready(fleet, 1)
                modal_cloud.do("end", sandbox_id=first, status="TERMINATED")
            wait_until(lambda: first not in made(modal_cloud))
            async with fleet.trajectory() as t:
                assert (await t.terminal("echo fine")).stdout == "fine\n"
    wait_until(lambda: made(modal_cloud) == [])


async def test_no_more_wait_than_may_and_none_serves_two(
    settings: Settings, redis_url: str, modal_cloud: StandIn
) -> None:
    """Defects 31 and 32: what is over the cap is destroyed; closing twice gives nothing back twice."""
    with worker("w1", redis_url, slots="4", **environment(modal_cloud, default=profile(modal={"pool_max": 2}))):
        async with Fleet.connect(settings) as fleet:
            crowd = [fleet.trajectory() for _ in range(4)]
            await asyncio.gather(*(dirty(t) for t in crowd))
            assert len(made(modal_cloud)) == 4
            await asyncio.gather(*(t.close() for t in crowd for _ in range(2)))
            wait_until(lambda: len(made(modal_cloud)) == 2)
            await until_ready(fleet, 2)
            again = [fleet.trajectory() for _ in range(3)]
            await asyncio.gather(*(t.terminal(f"echo {n} > /root/mine") for n, t in enumerate(again)))
            assert [(await t.terminal("cat /root/mine")).stdout for t in again] == ["0\n", "1\n", "2\n"]
            assert len(made(modal_cloud)) == 3
            await asyncio.gather(*(t.close() for t in again))
    wait_until(lambda: made(modal_cloud) == [])
