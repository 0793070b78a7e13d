"""The tutorial: read from top to bottom, one idea a test. Faults and limits are tested elsewhere."""

import asyncio
import io
import tarfile

import pytest

from toolfleet.producer import Fault, Fleet, Status

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_call_runs_in_a_sandbox_and_gives_a_result(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal("echo hello")
    assert (r.status, r.stdout, r.exit_code) == (Status.OK, "hello\n", 0)


async def test_calls_of_a_trajectory_share_a_workspace(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        await t.terminal("echo 42 > /tmp/answer")
        assert (await t.terminal("cat /tmp/answer")).stdout == "42\n"


async def test_trajectories_never_see_each_other(fleet: Fleet) -> None:
    async with fleet.trajectory() as mine, fleet.trajectory() as other:
        await mine.terminal("touch /tmp/mine")
        assert (await other.terminal("ls /tmp")).stdout == ""


async def test_trajectories_run_side_by_side_and_calls_of_one_in_order(fleet: Fleet) -> None:
    async with fleet.trajectory() as one, fleet.trajectory() as two:
        await asyncio.gather(*(t.terminal(f"echo {n} >> /tmp/log") for n in range(5) for t in (one, two)))
        assert (await one.terminal("cat /tmp/log")).stdout.split() == ["0", "1", "2", "3", "4"]


async def test_files_are_written_and_read_without_a_shell(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        await t.write_file("/work/notes.txt", 'it\'s "quoted"\n')
        assert (await t.read_file("/work/notes.txt")).stdout == 'it\'s "quoted"\n'


async def test_a_trajectory_may_begin_with_files_of_its_own(fleet: Fleet) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("task/question.txt")
        member.size = len(b"why?\n")
        tar.addfile(member, io.BytesIO(b"why?\n"))
    task = await fleet.archive(packed.getvalue(), dest="/work")
    async with fleet.trajectory(setup=[task]) as t:
        assert (await t.terminal("cat /work/task/question.txt")).stdout == "why?\n"


async def test_a_result_says_whose_fault_an_ending_was(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        wrong = await t.terminal("exit 3")
        slow = await t.terminal("sleep 60", timeout=1)
        unknown = await t.call("terminla", {"command": "ls"})
    assert (wrong.status, wrong.fault, wrong.exit_code) == (Status.OK, Fault.NONE, 3)
    assert (slow.status, slow.fault, slow.exit_code) == (Status.TIMEOUT, Fault.POLICY, 124)
    assert (unknown.status, unknown.fault, unknown.executed) == (Status.REJECTED, Fault.POLICY, "no")


async def test_a_call_id_never_runs_twice(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        for _ in range(2):
            await t.call("terminal", {"command": "echo ran >> /tmp/log"}, call_id="only-once")
        assert (await t.terminal("cat /tmp/log")).stdout == "ran\n"


async def test_cancelling_the_wait_stops_the_command(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        waiting = asyncio.create_task(t.terminal("touch /tmp/begun; sleep 60"))
        while not (await t.call("terminal", {"command": "ls /tmp"}, parallel=True)).stdout:
            await asyncio.sleep(0.01)
        waiting.cancel()
        assert (await t.terminal("pgrep sleep")).exit_code == 1  # the line is free again at once
