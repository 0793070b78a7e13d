"""A GRPO group: one task, several trajectories side by side, advantages over those that the fleet could serve.

The policy is a list of commands, so that the example needs no model. One of the trajectories gets a broken archive, as
an outage would have it: it is masked, and does not pull the group's mean down.
"""

import asyncio
import io
import statistics
import tarfile

from toolfleet.config.contract import Setup
from toolfleet.config.errors import FleetError
from toolfleet.producer import Fault, Fleet

TASK = {"numbers.txt": "3\n1\n2\n", "check.sh": 'test "$(cat sorted.txt)" = "$(printf "1\\n2\\n3")"\n'}
POLICY = ["sort -n numbers.txt > sorted.txt", "cp numbers.txt sorted.txt", "sort numbers.txt -o sorted.txt", "true"]


def pack(files: dict[str, str]) -> bytes:
    """A tar archive of text files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


async def rollout(fleet: Fleet, task: Setup, command: str) -> float | None:
    """The reward of one trajectory; None when infrastructure failed it."""
    try:
        async with fleet.trajectory(sweep="grpo-demo", setup=[task]) as t:
            turn = await t.terminal(command, workdir="/work")
            check = await t.terminal("bash check.sh", workdir="/work", timeout=30)
    except FleetError:
        return None  # no slot, no worker, no Redis: likewise nothing that the policy did
    if Fault.INFRASTRUCTURE in (turn.fault, check.fault):
        return None
    return float(check.ok)


async def main() -> None:
    """Run the group, and print each trajectory's reward and advantage."""
    async with Fleet.connect(slots=4) as fleet:
        task = await fleet.archive(pack(TASK), dest="/work")
        broken = await fleet.archive(b"not an archive", dest="/work")
        tasks = [task, task, task, broken]
        rewards = await asyncio.gather(*(rollout(fleet, t, c) for t, c in zip(tasks, POLICY, strict=True)))
    mean = statistics.mean(r for r in rewards if r is not None)
    for command, reward in zip(POLICY, rewards, strict=True):
        shown = "masked" if reward is None else f"reward {reward:.0f}, advantage {reward - mean:+.2f}"
        print(f"{command}: {shown}")


if __name__ == "__main__":
    asyncio.run(main())
