"""The predecessor's ToolExecutor over a real fleet: its errors, and what it got wrong."""

import asyncio

import pytest

from toolfleet.config.errors import SettingsError
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Settings
from toolfleet.producer import Fleet
from toolfleet.producer.adapters.artifacts import TrajectoryListRequest
from toolfleet.producer.adapters.atropos import ToolCall, ToolResult
from toolfleet.producer.adapters.tool_backend import NO_SLOT, FleetToolBackend
from toolfleet.producer.adapters.tool_executor import ToolExecutor, ToolExecutorConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")


def bash(command: str, **arguments: object) -> ToolCall:
    """A call of ``bash``."""
    return ToolCall(name="bash", arguments={"command": command, **arguments})


async def until_there(executor: ToolExecutor, trajectory_id: str, path: str) -> None:
    """Wait until a file is in the trajectory's workspace, however long another call of it runs."""
    trajectory = executor.backend.open(trajectory_id)
    while (await trajectory.call("terminal", {"command": f"test -e {path}"}, parallel=True)).exit_code:
        await asyncio.sleep(0.01)


class TestLife:
    async def test_x2_without_a_start_it_refuses(self, fleet: Fleet) -> None:
        waiting = ToolExecutor(FleetToolBackend(fleet=fleet))
        with pytest.raises(RuntimeError, match=r"^ToolExecutor not started \(call start\(\) first\)$"):
            await waiting.execute("t", bash("true"))

    async def test_14_closing_lets_calls_end_and_refuses_later_ones(self, fleet: Fleet) -> None:
        """Defect 14: a call that raced the end was never answered."""
        closing = ToolExecutor(FleetToolBackend(fleet=fleet))
        await closing.start()
        running = asyncio.create_task(closing.execute("t", bash("touch begun; sleep 1; echo done")))
        while closing.queue_size() == 0:
            await asyncio.sleep(0)
        await closing.close()
        assert (await running).output == "done\n"
        with pytest.raises(RuntimeError, match="not started"):
            await closing.execute("t", bash("true"))
        await closing.close()

    async def test_x10_it_counts(self, fleet: Fleet) -> None:
        async with ToolExecutor(FleetToolBackend(fleet=fleet)) as counting:
            await counting.execute("t", bash("true"))
            await counting.execute("t", bash("false"))
            await counting.execute("t", ToolCall(name="nope"))
            assert (counting.total_requests, counting.total_errors, counting.queue_size()) == (3, 2, 0)
            assert len(counting.latencies_s) == 3

    @pytest.mark.parametrize("network", ["host", "bridge"])
    async def test_a_forbidden_network_is_refused_before_anything_runs(self, network: str) -> None:
        settings = Settings(profiles={"open": Profile(network=network)})
        forbidding = ToolExecutor(FleetToolBackend(settings, profile="open"), ToolExecutorConfig(allow_network=False))
        with pytest.raises(SettingsError, match="allow_network is false"):
            await forbidding.start()


class TestCalls:
    async def test_a_result_is_the_predecessors(self, executor: ToolExecutor) -> None:
        call = bash("echo out; echo err >&2; exit 3")
        result = await executor.execute("shape", call)
        assert isinstance(result, ToolResult)
        assert (result.success, result.output, result.error) == (False, "out\n\n[stderr]\nerr\n", "Exit code: 3")
        assert result.uniq_id == call.uniq_id
        assert {"exit_code", "sandboxed", "network_isolated", "fault", "status"} <= result.metadata.keys()

    async def test_x4_a_trajectory_keeps_its_workspace(self, executor: ToolExecutor) -> None:
        await executor.execute("keeps", bash("echo mine > note"))
        assert (await executor.execute("keeps", bash("cat /workspace/note"))).output == "mine\n"

    async def test_11_tools_agree_on_paths(self, executor: ToolExecutor) -> None:
        """Defect 11: bash saw /workspace, and the file tools refused it."""
        for name in ("relative", "/workspace/absolute"):
            write = ToolCall(name="write_file", arguments={"path": name, "content": "x\n"})
            assert (await executor.execute("paths", write)).output == f"Successfully wrote 2 bytes to {name}"
            assert (await executor.execute("paths", bash(f"cat {name}"))).output == "x\n"
            read = ToolCall(name="read_file", arguments={"path": name})
            assert (await executor.execute("paths", read)).output == "x\n"

    async def test_x5_unknown_and_external_tools(self, executor: ToolExecutor) -> None:
        assert (await executor.execute("x5", ToolCall(name="nope"))).error == "Unknown tool: nope"
        said = (await executor.execute("x5", ToolCall(name="web_search"))).error
        assert said == "External tool not available (ToolServer not configured): web_search"

    async def test_x7_background_is_refused_and_policy_is_not_the_models(self, executor: ToolExecutor) -> None:
        call = ToolCall(name="terminal", arguments={"command": "true", "background": True})
        assert (await executor.execute("x7", call)).error == "terminal background execution is not supported in sandbox"
        asking = bash("echo hi", allow_network=True, require_sandbox=False, require_stateful_sandbox=False)
        assert (await executor.execute("x7", asking)).output == "hi\n"
        assert (await executor.execute("x7", bash("echo hi", background=False))).output == "hi\n"

    @pytest.mark.parametrize("timeout", ["soon", None, True, float("nan"), float("inf"), 10**400, -1])
    async def test_x2_no_timeout_of_a_model_is_an_error_or_endless(
        self, executor: ToolExecutor, timeout: object
    ) -> None:
        assert (await executor.execute("x2", bash("echo hi", timeout=timeout))).output == "hi\n"

    @pytest.mark.parametrize(
        ("asked", "argument", "given"),
        [(5, 9, 5), (None, 9, 9), (None, None, 120), (0, None, 1), (1e9, None, 600), (None, float("inf"), 600)],
    )
    async def test_x2_the_timeout_is_the_callers_else_the_arguments_else_the_profiles(
        self, executor: ToolExecutor, asked: float | None, argument: object, given: float
    ) -> None:
        assert executor.backend.timeout(asked, {"timeout": argument}) == given

    async def test_12_a_timeout_keeps_what_was_printed(self, executor: ToolExecutor) -> None:
        """Defects 4 and 12: an empty error, and no output."""
        result = await executor.execute("late", bash("echo before; sleep 60"), timeout_s=1)
        assert (result.success, result.output) == (False, "before\n")
        assert result.error == "Command timed out after 1s"
        assert (result.metadata["exit_code"], result.metadata["timeout"]) == (-1, True)

    async def test_13_a_child_in_the_background_holds_nothing_up(self, executor: ToolExecutor) -> None:
        """Defect 13: the pipe that ``sleep`` inherits kept the call open."""
        assert (await executor.execute("pipe", bash("sleep 300 & echo hi"), timeout_s=60)).output == "hi\n"


class TestCrowds:
    async def test_1_more_trajectories_than_slots_all_finish(self, executor: ToolExecutor) -> None:
        """F1: holders' next calls stood behind those who waited for a slot, for ever."""

        async def rollout(number: int) -> str:
            ident = f"crowd-{number}"
            for turn in range(3):
                assert (await executor.execute(ident, bash(f"echo {turn} >> log"))).success
            output = (await executor.execute(ident, bash("cat log"))).output
            await executor.release_trajectory(ident)
            return output

        assert set(await asyncio.gather(*map(rollout, range(24)))) == {"0\n1\n2\n"}

    async def test_2_quick_calls_do_not_wait_for_a_slow_one(self, executor: ToolExecutor) -> None:
        """F2: a batch was awaited to its end."""
        slow = asyncio.create_task(executor.execute("slow", bash("touch begun; sleep 60"), timeout_s=70))
        await until_there(executor, "slow", "begun")
        for _ in range(5):
            assert (await executor.execute("quick", bash("true"))).success
        assert not slow.done()
        slow.cancel()

    async def test_3_calls_of_a_trajectory_keep_their_order_whatever_their_timeouts(
        self, executor: ToolExecutor
    ) -> None:
        """F3: groups by timeout ran one after another."""
        timeouts = [10, 20, 10, 30, 20]
        calls = [executor.execute("fifo", bash(f"echo {n} >> log"), t) for n, t in enumerate(timeouts)]
        await asyncio.gather(*calls)
        assert (await executor.execute("fifo", bash("cat log"))).output.split() == ["0", "1", "2", "3", "4"]


class TestRelease:
    async def test_7_the_next_tenant_finds_nothing(self, executor: ToolExecutor) -> None:
        await executor.execute("before", bash("echo secret > note; echo secret > ~/.hidden; ln -s / link"))
        await executor.release_trajectory("before")
        found = await executor.execute("after", bash("ls -A /workspace ~ /tmp"))
        assert "note" not in found.output
        assert "hidden" not in found.output

    async def test_15_a_late_call_opens_no_slot(self, executor: ToolExecutor) -> None:
        """Defect 15: nobody released what it got."""
        await executor.execute("late-caller", bash("true"))
        await executor.release_trajectory("late-caller", reset_workspace=True)
        result = await executor.execute("late-caller", bash("true"))
        assert (result.success, result.metadata["executed"]) == (False, "no")
        assert "was released" in result.error
        await executor.release_trajectory("late-caller")

    async def test_15_a_release_leaves_the_call_that_runs_alone(self, executor: ToolExecutor) -> None:
        running = asyncio.create_task(executor.execute("inflight", bash("touch begun; sleep 1; ls")))
        await until_there(executor, "inflight", "begun")
        await executor.release_trajectory("inflight")
        assert (await running).output == "begun\n"

    async def test_15_a_release_ends_the_call_that_waits_for_a_slot(self, fleet: Fleet, executor: ToolExecutor) -> None:
        async with ToolExecutor(FleetToolBackend(fleet=fleet)) as crowded:
            slots = int((await crowded.backend.pool())["total_slots"])
            holding = [crowded.execute(f"hold-{n}", bash("true")) for n in range(slots)]
            assert all(result.success for result in await asyncio.gather(*holding))
            waiting = asyncio.create_task(crowded.execute("waits", bash("true")))
            while not await fleet.state.waiting():
                await asyncio.sleep(0.01)
            await crowded.release_trajectory("waits")
            assert "was released" in (await waiting).error

    @pytest.mark.parametrize("ident", ["with space", "ümläut", "x" * 500, "new\nline", "a/b:{c}", "\ud800"])
    async def test_any_text_names_a_trajectory(self, executor: ToolExecutor, ident: str) -> None:
        await executor.execute(ident, bash("echo mine > note"))
        assert (await executor.execute(ident, bash("cat note"))).output == "mine\n"
        await executor.release_trajectory(ident)

    async def test_a_released_id_may_be_used_by_the_next_run(self, fleet: Fleet) -> None:
        for _ in range(2):
            async with ToolExecutor(FleetToolBackend(fleet=fleet)) as run:
                assert (await run.execute("rollout-0", bash("ls"))).output == ""


async def test_x9_artifacts_need_a_slot(executor: ToolExecutor) -> None:
    answer = await executor.list_artifacts(TrajectoryListRequest(trajectory_id="never-called"))
    assert (answer.success, answer.error) == (False, NO_SLOT)
