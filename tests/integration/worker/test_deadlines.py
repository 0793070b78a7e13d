"""Every call ends by its deadline, also when its worker neither answers nor dies."""

import asyncio
import signal

from fleet_processes import until_running, worker

from toolfleet.config.contract import Fault, Status
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet


async def test_calls_at_a_worker_that_stands_still_end_and_the_trajectory_goes_on(
    settings: Settings, redis_url: str
) -> None:
    # A lease so long that nobody declares the worker dead meanwhile.
    patient = settings.model_copy(update={"start_timeout": 5.0, "lease_ttl": 100.0})
    with worker("w1", redis_url, TOOLFLEET_LEASE_TTL="100") as still:
        async with Fleet.connect(patient) as fleet, fleet.trajectory("t1") as t:
            while not await fleet.state.workers():
                await asyncio.sleep(0.02)
            await t.terminal("true", timeout=60)
            running = await until_running(fleet, t, "echo x >> /tmp/n; sleep 600", timeout=2)
            still.send_signal(signal.SIGSTOP)
            queued = asyncio.create_task(t.terminal("echo y >> /tmp/n", timeout=1))
            told, never = await running, await queued
            assert (told.status, told.fault, told.executed) == (Status.UNKNOWN, Fault.INFRASTRUCTURE, "unknown")
            assert (never.status, never.fault, never.executed) == (Status.FAILED, Fault.INFRASTRUCTURE, "no")
            assert "deadline" in str(told.error)
            assert "deadline" in str(never.error)
            still.send_signal(signal.SIGCONT)
            after = await t.terminal("cat /tmp/n", timeout=60)
            assert (after.status, after.stdout, after.workspace_generation) == (Status.OK, "x\n", 1)
