"""A sandbox that its creator leaves behind: what tests ask for (`orphan`), and the program that makes it and dies."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from toolfleet.backends import registry
from toolfleet.backends.base import Owner, Request, SandboxRef
from toolfleet.config.profile import Profile

#: The call in the middle of which the creator dies. It prints a line for each time that it was run.
CALL_ID, OUTPUT = "left-behind", b"run\n"
#: What lets that call go on.
GO = "touch /tmp/go"
_COMMAND = "echo run >> /tmp/runs; until [ -e /tmp/go ]; do sleep 0.01; done; cat /tmp/runs"


async def orphan(backend: str, runtime_dir: Path, profile: Profile, owner: Owner, epoch: int = 0) -> SandboxRef:
    """A sandbox whose creator was killed with SIGKILL while `CALL_ID` ran; claimed under ``epoch`` unless that is 0."""
    told = json.dumps([backend, str(runtime_dir), profile.model_dump_json(), asdict(owner), epoch])
    done = await asyncio.to_thread(subprocess.run, [sys.executable, __file__, told], stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL
    return SandboxRef(**json.loads(done.stdout))


async def _create_and_die(backend: str, runtime_dir: str, profile: str, owner: dict[str, str], epoch: int) -> None:
    made = registry.load(backend, Path(runtime_dir))
    sandbox = await made.create(Profile.model_validate_json(profile), Owner(**owner))
    if epoch:
        await sandbox.claim(epoch)
    call = asyncio.create_task(sandbox.run(Request(CALL_ID, "exec", {"command": _COMMAND}, 60.0)))
    while await sandbox.query(CALL_ID) != "running":
        await asyncio.sleep(0.01)
    assert not call.done()
    print(json.dumps(asdict(sandbox.ref)), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(_create_and_die(*json.loads(sys.argv[1])))
