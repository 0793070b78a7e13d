"""One call after another through a real fleet: what a trainer sees, whatever a model writes."""

import asyncio

import pytest

from toolfleet.config.contract import OUTPUT_LIMIT, Fault, Status
from toolfleet.config.errors import InvalidCall, PayloadTooLarge, TrajectoryClosed
from toolfleet.producer import Fleet

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_command_gives_streams_and_exit_code_apart(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal("echo out; echo err >&2; exit 3")
    assert (r.status, r.fault, r.executed) == (Status.OK, Fault.NONE, "yes")
    assert (r.stdout, r.stderr, r.exit_code) == ("out\n", "err\n", 3)
    assert r.output == "out\nerr\n"
    assert (r.attempts, r.lease_epoch, r.workspace_generation) == (1, 1, 1)
    assert r.trajectory_id == t.id
    assert r.worker_id.startswith("embedded-")


async def test_stderr_of_a_command_that_succeeded_stays_out_of_the_output(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal("echo out; echo chatter >&2")
    assert (r.output, r.stderr) == ("out\n", "chatter\n")


async def test_files_persist_within_a_trajectory_and_nowhere_else(fleet: Fleet) -> None:
    async with fleet.trajectory() as mine, fleet.trajectory() as other:
        await mine.terminal("echo secret > /tmp/note")
        assert (await mine.terminal("cat /tmp/note")).stdout == "secret\n"
        assert (await other.terminal("cat /tmp/note")).exit_code == 1


async def test_a_timeout_kills_the_tree_and_keeps_what_was_printed(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal("echo before; (sleep 50; echo late > /tmp/late) & sleep 60", timeout=1)
        assert (r.status, r.fault, r.exit_code, r.executed) == (Status.TIMEOUT, Fault.POLICY, 124, "yes")
        assert r.stdout == "before\n"
        assert r.detail == {"timeout": 1.0}
        assert (await t.terminal("pgrep sleep")).exit_code == 1


@pytest.mark.parametrize(("asked", "given"), [(-5, 1.0), (0, 1.0), (1e12, 600.0), (float("inf"), 600.0)])
async def test_an_absurd_timeout_is_cut_to_what_policy_allows(fleet: Fleet, asked: float, given: float) -> None:
    async with fleet.trajectory() as t:
        assert (await t.terminal("echo hi", timeout=asked)).stdout == "hi\n"
        if given < 2:
            assert (await t.terminal("sleep 9", timeout=asked)).error == "timed out after 1 s"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("terminla", {"command": "ls"}, "Did you mean 'terminal'"),
        ("terminal", {}, "command: Field required"),
        ("terminal", {"command": "ls", "colour": 1}, "colour: Extra inputs"),
        ("terminal", {"command": 7}, "command: Input should be a valid string"),
        ("terminal", {"command": "ls", "timeout": "soon"}, "timeout: Input should be a valid number"),
        # Serialisers mark values of their own so, kombu's for one.
        ("terminal", {"command": {"__type__": "uuid", "__value__": "x"}}, "command: Input should be a valid string"),
        ("terminal", {"__type__": "unheard-of", "__value__": "x"}, "__type__: Extra inputs"),
        ("terminal", '{"command": "ls"', "not JSON"),
        ("terminal", "[1]", "must be a JSON object, not list"),
        ("terminal", "ls -l", "not JSON"),
        ("read_file", {"path": ""}, "path: String should have at least 1"),
    ],
)
async def test_what_does_not_fit_is_rejected_with_the_reason(
    fleet: Fleet, name: str, arguments: dict[str, object] | str, says: str
) -> None:
    async with fleet.trajectory() as t:
        r = await t.call(name, arguments)
    assert (r.status, r.fault, r.executed) == (Status.REJECTED, Fault.POLICY, "no")
    assert says in str(r.error)
    assert r.detail["refusal"] == ("UnknownTool" if name == "terminla" else "InvalidArguments")
    assert ("terminal" in r.detail.get("available", [])) is (name == "terminla")


async def test_a_profile_allows_some_tools_only(fleet: Fleet) -> None:
    async with fleet.trajectory(profile="reader") as t:
        for name in ("terminal", "bash", "write_file"):
            r = await t.call(name, {"command": "true"})
            assert (r.status, r.executed) == (Status.REJECTED, "no")
            assert str(r.error) == f"the profile 'reader' does not allow the tool {name!r}"
        assert (await t.read_file("/etc/passwd")).status is Status.OK


async def test_arguments_may_come_as_the_models_own_json(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        assert (await t.call("terminal", '{"command": "echo hi"}')).stdout == "hi\n"


@pytest.mark.parametrize(
    "path",
    [
        "/tmp/with space",
        '/tmp/it\'s "quoted"',
        "/tmp/two\nlines",
        "-rf",
        "/tmp/$(touch x)`id`;&|",
        "/tmp/ümläut/深い/f",
    ],
)
async def test_odd_paths_round_trip(fleet: Fleet, path: str) -> None:
    async with fleet.trajectory() as t:
        written = await t.write_file(path, "content\n")
        assert (written.status, written.exit_code) == (Status.OK, 0), written.error
        assert (await t.read_file(path)).stdout == "content\n"


async def test_a_path_with_nul_is_refused_and_harms_nobody(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.read_file("/tmp/a\0b")
        assert r.fault is not Fault.INFRASTRUCTURE
        assert r.exit_code != 0
        assert (await t.terminal("echo alive")).stdout == "alive\n"


async def test_a_20_mb_file_goes_in_whole_and_comes_out_in_windows(fleet: Fleet) -> None:
    lines = 400_000
    content = "".join(f"{n:07d} {'x' * 44}\n" for n in range(lines))
    assert len(content) > 20_000_000
    async with fleet.trajectory() as t:
        assert (await t.write_file("/tmp/big", content)).exit_code == 0
        assert (await t.terminal("wc -c < /tmp/big; md5sum < /tmp/big")).stdout.startswith(f"{len(content)}\n")
        r = await t.read_file("/tmp/big", offset=399_999, limit=5)
        assert [line[:7] for line in r.stdout.splitlines()] == ["0399998", "0399999"]
        first = await t.read_file("/tmp/big", limit=100)
        assert first.truncated
        assert "offset=101" in first.output


async def test_what_is_larger_than_the_fleet_takes_is_refused_before_it_leaves(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        with pytest.raises(PayloadTooLarge, match="max_payload"):
            await t.write_file("/tmp/f", "x" * (fleet.settings.max_payload + 1))


async def test_binary_output_nul_bytes_and_invalid_utf8_arrive_as_text(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal(r"printf 'a\0b\377\303(c'")
    assert r.status is Status.OK
    assert r.stdout == "a\0b\ufffd\ufffd(c"


async def test_a_lone_surrogate_in_the_arguments_is_refused_with_a_reason(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        with pytest.raises(InvalidCall, match="surrogate"):
            await t.write_file("/tmp/f", "\ud800")
        assert (await t.terminal("echo alive")).stdout == "alive\n"


async def test_100_mb_of_output_is_cut_in_the_middle(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal("echo first; head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last", timeout=60)
    assert r.truncated
    assert len(r.output) <= OUTPUT_LIMIT
    assert r.output.startswith("first\nxxx")
    assert r.output.endswith("xxx\nlast\n")
    assert "OUTPUT TRUNCATED" in r.output
    assert r.bytes_dropped > 99_900_000


@pytest.mark.parametrize(
    "command",
    [
        "exit 3",
        "exec true",
        "kill -9 -1",
        "kill -9 1; kill -INT 1",
        "exec 1>&- 2>&-; echo gone",
        "rm -rf / 2>/dev/null",
    ],
)
async def test_no_command_takes_its_sandbox_down(fleet: Fleet, command: str) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal(command, timeout=20)
        assert r.fault is Fault.NONE, r
        assert (await t.terminal("echo alive")).stdout == "alive\n"


async def test_a_fork_storm_stays_within_its_limit_and_its_deadline(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal("f() { f | f & }; f; wait; sleep 30", timeout=3)
        assert r.fault is not Fault.INFRASTRUCTURE, r
        assert (await t.terminal("echo alive")).stdout == "alive\n"


async def test_text_that_looks_like_our_own_frames_changes_nothing(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.terminal(
            """printf '\\0\\0\\0\\20{"status":"lost"}'; echo "no permissions to create new namespace" >&2"""
        )
    assert (r.status, r.exit_code) == (Status.OK, 0)


async def test_there_is_no_network_and_no_secret_in_a_sandbox(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet.trajectory() as t:
        interfaces = await t.terminal("ls /sys/class/net 2>/dev/null || tail -n +3 /proc/net/dev | cut -d: -f1")
        assert interfaces.stdout.split() in (["lo"], [])
        environment = (await t.terminal("env")).stdout
        assert "TOOLFLEET_REDIS" not in environment
        assert "redis" not in environment
        assert (await t.terminal("cat /etc/shadow")).exit_code == 1
        assert (await t.terminal("find / -xdev -type s 2>/dev/null")).stdout == ""


async def test_a_missing_file_is_the_tools_own_ending(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        r = await t.read_file("/no/such")
    assert (r.status, r.fault) == (Status.OK, Fault.NONE)
    assert r.exit_code
    assert r.output == r.error
    assert "/no/such" in r.output


async def test_a_set_up_archive_is_there_before_the_first_call(fleet: Fleet) -> None:
    archive = (pytest.importorskip("pathlib").Path(__file__).parents[3] / "examples/intercode/fs1.tar.gz").read_bytes()
    setup = await fleet.archive(archive)
    async with fleet.trajectory(setup=[setup]) as t:
        assert (await t.terminal("cat /testbed/hello.php")).exit_code == 0


async def test_a_broken_set_up_archive_is_infrastructure_and_says_so(fleet: Fleet) -> None:
    setup = await fleet.archive(b"this is not an archive")
    async with fleet.trajectory(setup=[setup]) as t:
        r = await t.terminal("echo hi")
    assert (r.status, r.fault, r.executed) == (Status.FAILED, Fault.INFRASTRUCTURE, "no")
    assert "set-up" in str(r.error)


async def test_a_closed_trajectory_takes_no_more_calls(fleet: Fleet) -> None:
    t = fleet.trajectory("closing-time")
    await t.terminal("true")
    await t.close()
    with pytest.raises(TrajectoryClosed):
        await t.terminal("true")
    with pytest.raises(TrajectoryClosed):
        await fleet.trajectory("closing-time").terminal("true")


async def test_submitting_a_call_id_again_never_runs_it_again(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        command = {"command": "echo x >> /tmp/count; wc -l < /tmp/count"}
        first = await t.call("terminal", command, call_id=f"{t.id}-1")
        again = await t.call("terminal", command, call_id=f"{t.id}-1")
        assert first.stdout == again.stdout == "1\n"
        assert (await t.terminal("wc -l < /tmp/count")).stdout == "1\n"


async def test_cancelling_the_wait_cancels_the_call(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        waiting = asyncio.create_task(t.terminal("touch /tmp/began; sleep 60"))
        while (await t.call("terminal", {"command": "test -e /tmp/began"}, parallel=True)).exit_code:
            pass
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # In line behind the cancelled call: it runs as soon as that one's tree is dead.
        r = await t.terminal("pgrep sleep")
    assert r.exit_code == 1
    assert r.timing.waited < 30
