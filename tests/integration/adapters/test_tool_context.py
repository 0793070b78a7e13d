"""T1 to T8: what a reward function sees of the sandbox that the model worked in."""

import asyncio
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolfleet.config.tools import catalogue
from toolfleet.producer import Fleet, SyncFleet
from toolfleet.producer.adapters.async_tool_context import AsyncToolContext
from toolfleet.producer.adapters.handler import tool_handler
from toolfleet.producer.adapters.rollouts import Rollouts
from toolfleet.producer.adapters.tool_context import ToolContext


def test_it_sees_what_the_model_left(rollouts: Rollouts) -> None:
    """T1: the same task is the same sandbox, with its files and processes."""
    handler = tool_handler(rollouts)
    asyncio.run(handler("terminal", {"command": "echo 42 > /tmp/answer; sleep 300 >/dev/null 2>&1 &"}, "a"))
    ctx = ToolContext("a", rollouts)
    assert ctx.terminal("cat /tmp/answer; pgrep -c sleep") == {"output": "42\n1\n", "exit_code": 0, "error": None}
    assert ctx.read_file("/tmp/answer")["content"] == "     1|42"
    assert ctx.write_file("/tmp/verdict", "good")["bytes_written"] == 4
    assert asyncio.run(handler("terminal", {"command": "cat /tmp/verdict"}, "a")) == ctx.call_tool(
        "terminal", {"command": "cat /tmp/verdict"}
    )
    assert asyncio.run(handler.metrics("a")).attempted == 2, "what a reward does is not counted as the model's"
    assert ctx.metrics.attempted == 4


def test_every_tool_may_be_called_and_says_what_is_wrong(rollouts: Rollouts) -> None:
    """T2, T3, T8."""
    ctx = ToolContext("a", rollouts)
    assert ctx.terminal("exit 7")["exit_code"] == 7
    assert ctx.terminal("sleep 60", timeout=1)["error"] == "Command timed out after 1 seconds"
    assert ctx.read_file("/nowhere")["error"].endswith(": /nowhere")
    for said in (
        ctx.web_search("tides"),
        ctx.web_extract(["https://a.example"]),
        ctx.browser_navigate("b"),
        ctx.browser_snapshot(),
    ):
        assert said["error"]
    assert "Unknown tool 'nope'" in json.loads(ctx.call_tool("nope", {}))["error"]
    assert not ctx.masked, "none of this is the infrastructure's fault"


@pytest.mark.skipif("search_files" not in {tool.name for tool in catalogue()}, reason="needs search_files")
def test_search(rollouts: Rollouts) -> None:
    ctx = ToolContext("a", rollouts)
    ctx.write_file("/work/a.txt", "needle\n")
    assert ctx.search("need.e", "/work")["total_count"] == 1


async def test_it_may_be_called_where_an_event_loop_runs(rollouts: Rollouts) -> None:
    """T2, defects 37 and 41: no thread of its own for each call, and no limit but the call's."""
    ctx = ToolContext("a", rollouts)
    ctx.terminal("true")
    threads = threading.active_count()
    for number in range(5):
        assert ctx.terminal(f"echo {number}")["output"] == f"{number}\n"
    assert threading.active_count() == threads


async def test_the_async_twin_leaves_the_loop_to_others(rollouts: Rollouts) -> None:
    """Defect 41: rewards of many rollouts are computed side by side."""
    contexts = [AsyncToolContext(f"task-{n}", rollouts) for n in range(4)]
    # Each of them waits for a file that only the next one's turn of the loop can write.
    waiting = [
        asyncio.create_task(ctx.terminal("until test -e /tmp/go; do sleep 0.01; done; echo gone")) for ctx in contexts
    ]
    for ctx in contexts:
        trajectory = rollouts.trajectory(ctx.task_id)
        await rollouts.bridge.carry(trajectory.call("terminal", {"command": "touch /tmp/go"}, parallel=True))
    assert [(await task)["output"] for task in waiting] == ["gone\n"] * 4


def test_it_may_be_used_from_many_threads(rollouts: Rollouts) -> None:
    def reward(number: int) -> str:
        ctx = ToolContext(f"task-{number}", rollouts)
        try:
            return str(ctx.terminal(f"echo {number}")["output"])
        finally:
            ctx.cleanup()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reward, range(16))) == [f"{n}\n" for n in range(16)]


async def test_on_the_fleets_own_loop_the_blocking_one_refuses(fleet: SyncFleet) -> None:
    settings = fleet.inner.settings.model_copy(update={"slots": 1})
    async with Fleet.connect(settings, workers=1) as own:
        rollouts = Rollouts(own)
        with pytest.raises(RuntimeError, match="await the async twin"):
            ToolContext("a", rollouts).terminal("true")
        assert (await AsyncToolContext("a", rollouts).terminal("echo hi"))["output"] == "hi\n"
        said = await asyncio.to_thread(ToolContext("a", rollouts).terminal, "echo from a thread")
        assert said["output"] == "from a thread\n"


def test_an_outage_asks_for_a_mask_and_is_no_zero(rollouts: Rollouts) -> None:
    """D8, F15."""
    rollouts.configure("a", profile="nobody-serves-it")
    ctx, moves = ToolContext("a", rollouts), ToolContext("a", rollouts)
    assert ctx.terminal("true")["status"] == "degraded"
    assert ctx.masked
    assert moves.upload_file("/etc/hostname", "/work/f")["exit_code"] == -1
    assert moves.masked


def test_cleanup_ends_the_sandbox_and_reports(rollouts: Rollouts) -> None:
    """T8, defect 42: nothing of the process is changed, and what was done is told."""
    ctx = ToolContext("a", rollouts)
    ctx.terminal("sleep 300 >/dev/null 2>&1 &")
    before = dict(os.environ)
    report = ctx.cleanup()
    assert (report.task_id, report.closed, report.error) == ("a", True, None)
    assert report.trajectory_id is not None
    assert dict(os.environ) == before
    assert ctx.cleanup().trajectory_id is None


def test_what_cannot_be_moved_is_told(rollouts: Rollouts, tmp_path: Path) -> None:
    """T4 to T6."""
    ctx = ToolContext("a", rollouts)
    missing = str(tmp_path / "none")
    said = f"Local file not found: {missing}"
    assert ctx.upload_file(missing, "/tmp/x") == {"output": said, "exit_code": -1, "error": said}
    (gone,) = ctx.upload_dir(missing, "/tmp/x")
    assert (gone["exit_code"], gone["output"]) == (-1, f"Local directory not found: {missing}")


@pytest.mark.parametrize("local", ["/etc/passwd", "../secret", "link/secret", "a/../../secret"])
def test_paths_of_this_machine_stay_below_the_root(rollouts: Rollouts, tmp_path: Path, local: str) -> None:
    """Defect 40."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("s")
    (root / "link").symlink_to(tmp_path)
    ctx = ToolContext("a", rollouts, root=root)
    why = f"Local path is outside {root}: {local}"
    assert ctx.upload_file(local, "/tmp/x") == {"output": why, "exit_code": -1, "error": why}
    assert ctx.download_file("/etc/hostname", local) == {"success": False, "error": why}
    assert ctx.upload_dir(local, "/tmp/x") == [{"output": why, "exit_code": -1, "error": why}]
    assert ctx.download_dir("/etc", local) == [{"success": False, "error": why}]
    assert (tmp_path / "secret").read_text() == "s"


def test_files_go_in_and_out_as_they_are(rollouts: Rollouts, tmp_path: Path) -> None:
    """T4, T6, F10, defects 38 and 39: any bytes, any length, any name."""
    ctx = ToolContext("a", rollouts, root=tmp_path)
    for name, content in [("empty", b""), ('it\'s a "name"\n', os.urandom(100_000)), ("-rf", bytes(range(256)))]:
        (tmp_path / name).write_bytes(content)
        assert ctx.upload_file(name, f"/work/{name}") == {
            "output": "", "exit_code": 0, "error": None, "bytes": len(content)
        }  # fmt: skip
        assert ctx.download_file(f"/work/{name}", f"back/{name}") == {"success": True, "bytes": len(content)}
        assert (tmp_path / "back" / name).read_bytes() == content
    missing = ctx.download_file("/work/none", "back/none")
    assert not missing["success"]
    assert missing["error"]
    assert not ctx.masked


def test_trees_go_in_and_out(rollouts: Rollouts, tmp_path: Path) -> None:
    """T5, T7."""
    ctx = ToolContext("a", rollouts, root=tmp_path)
    (tmp_path / "tree/sub/empty").mkdir(parents=True)
    (tmp_path / "tree/run.sh").write_text("echo ran\n")
    (tmp_path / "tree/run.sh").chmod(0o755)
    (tmp_path / "tree/sub/b").write_text("bb")
    assert [said["bytes"] for said in ctx.upload_dir("tree", "/work/tree")] == [9, 2]
    assert ctx.terminal("cd /work/tree && ./run.sh && test -d sub/empty")["output"] == "ran\n"
    assert [said["bytes"] for said in ctx.download_dir("/work/tree", "back")] == [9, 2]
    assert (tmp_path / "back/sub/b").read_text() == "bb"
    assert (tmp_path / "back/sub/empty").is_dir()
    (failed,) = ctx.download_dir("/work/none", "none")
    assert failed["error"].startswith("Failed to list remote dir: ")


def test_a_verified_reward_looks_at_a_copy_without_the_models_processes(rollouts: Rollouts) -> None:
    """Defect 43: a process that the model left cannot touch what the verifier sees."""
    ctx = ToolContext("a", rollouts)
    ctx.terminal("echo mine > /tmp/answer; (while sleep 0.01; do echo forged > /tmp/verdict; done) >/dev/null 2>&1 &")
    ctx.terminal("until test -e /tmp/verdict; do sleep 0.01; done")
    with ctx.verified() as clean:
        assert clean.terminal("cat /tmp/answer; pgrep -c sleep; rm /tmp/verdict /tmp/answer")["output"] == "mine\n0\n"
        assert clean.terminal("ls /tmp")["output"] == ""
        assert clean.task_id != ctx.task_id
    assert ctx.terminal("cat /tmp/answer /tmp/verdict")["output"] == "mine\nforged\n"


async def test_the_async_twin_verifies_too(rollouts: Rollouts) -> None:
    ctx = AsyncToolContext("a", rollouts)
    await ctx.terminal("echo 42 > /tmp/answer")
    async with ctx.verified() as clean:
        assert (await clean.terminal("cat /tmp/answer"))["output"] == "42\n"
        verified = rollouts.trajectory(clean.task_id).id
    assert verified not in [rollouts.trajectory("a").id]
