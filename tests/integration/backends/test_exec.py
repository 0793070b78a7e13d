"""Commands: what comes back, and what ends them."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from integration.backends.conftest import Box


async def test_a_command_returns_its_streams_and_its_exit_code(box: "Box") -> None:
    """Streams are kept apart and binary; the exit code is the command's own."""
    outcome = await box.sh(r"printf 'a\0\377'; echo e >&2; exit 7")
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (b"a\0\xff", b"e\n", 7)
    assert (outcome.timed_out, outcome.cancelled, outcome.error) == (False, False, None)
    assert 0 < outcome.ran < 5


async def test_a_command_killed_by_a_signal_exits_with_128_plus_its_number(box: "Box") -> None:
    """As a shell would report it."""
    assert (await box.sh("kill -SEGV $$")).exit_code == 128 + 11


async def test_commands_run_in_bash_with_a_clean_environment(box: "Box") -> None:
    """Nothing of the worker's environment comes along; stdin is empty."""
    assert await box.text("x=([5]=y); echo ${x[5]}; cat") == "y"
    names = {line.partition("=")[0] for line in (await box.text("env")).splitlines()}
    own = {"PWD", "SHLVL", "_"}
    assert names - own == {"PATH", "HOME", "USER", "SHELL", "TERM", "TAR_OPTIONS", "TOOLFLEET_CALL"}


async def test_cwd_and_env_of_a_call_come_over_those_of_the_profile(make: "Callable[..., Awaitable[Box]]") -> None:
    """Profile first, call second; a relative directory starts from the profile's."""
    box = await make(workdir="/work dir", env={"A": "profile", "B": "profile"})
    assert await box.text("echo $A $B $PWD", env={"B": "call é"}) == "profile call é /work dir"
    await box.text("mkdir sub")
    assert await box.text("pwd", cwd="sub") == "/work dir/sub"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"command": "true", "cwd": "/no/such"}, "/no/such"),
        ({"command": "true", "cwd": "/etc/passwd"}, "/etc/passwd"),
        ({"command": "true", "cwd": ""}, "empty"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": "true", "cwd": "a\0b"}, "NUL"),
        ({"command": "true", "env": {"A": "a\0b"}}, "NUL"),
        ({"command": ": " + "x" * 140_000}, "140002 bytes long"),
        ({"command": "true", "env": {"A": "x" * 140_000}}, "too long"),
        ({"command": 5}, "must be a string"),
        ({"command": "true", "env": {"A": 5}}, "must map"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_command_that_cannot_start_says_why(box: "Box", args: dict[str, Any], words: str) -> None:
    """A sentence and exit code 126, and the runner goes on."""
    outcome = await box.sandbox.run(box.request("exec", **args))
    assert outcome.exit_code == 126
    assert outcome.error is not None
    assert words in outcome.error
    assert await box.text("echo on") == "on"


async def test_a_command_of_the_longest_possible_length_runs(box: "Box") -> None:
    """The kernel's limit is the only one."""
    assert await box.text("echo ok #".ljust(131_071, "x")) == "ok"


async def test_at_the_deadline_the_tree_is_killed_and_partial_output_kept(box: "Box") -> None:
    """Exit code 124, everything printed until then, no process left, in about the time that was given."""
    began = time.monotonic()
    outcome = await box.sh("echo before; sleep 5001 & setsid sleep 5002 & (sleep 5003 &) ; wait", timeout=0.3)
    assert time.monotonic() - began < 3
    assert (outcome.exit_code, outcome.timed_out, outcome.stdout) == (124, True, b"before\n")
    assert await box.commands() == []


async def test_a_command_may_clean_up_on_term(box: "Box") -> None:
    """TERM comes first, KILL only after a grace period."""
    outcome = await box.sh("trap 'echo bye; exit 0' TERM; sleep 5004 & wait", timeout=0.2)
    assert (outcome.exit_code, outcome.stdout) == (124, b"bye\n")


@pytest.mark.parametrize(
    "command",
    [
        "trap '' TERM INT HUP; while :; do sleep 0.05; done",
        "setsid bash -c 'trap \"\" TERM; sleep 6001' & wait",
        "(setsid bash -c 'sleep 6002 & disown; exec sleep 6003' &) ; sleep 6004",
        "env -i setsid bash -c '(setsid sleep 6005 &)'; sleep 6006",
        "kill -STOP $$; sleep 6007",
    ],
)
async def test_nothing_escapes_the_deadline(box: "Box", command: str) -> None:
    """Whoever ignores TERM, leaves the session, forks twice, empties its environment or stops itself."""
    outcome = await box.sh(command, timeout=0.3)
    assert outcome.exit_code == 124
    assert await box.commands() == []


@pytest.mark.parametrize(
    "command",
    ["env -i setsid sleep 6008 & wait", "(env -i sleep 6009 &); sleep 6010", "(setsid sleep 6011 &); sleep 6012"],
    ids=["descendant", "session", "mark"],
)
async def test_a_kill_finds_the_tree_beside_other_calls_and_spares_them(box: "Box", command: str) -> None:
    """By descent, by session, or by mark; orphans without a mark count only where no other call could own them."""
    other = asyncio.create_task(box.sh("setsid sleep 5007; echo spared", call_id="other"))
    assert (await box.sh(command, timeout=0.3)).exit_code == 124
    left = await box.commands()
    assert [line for line in left if "sleep 60" in line] == []
    assert [line for line in left if line == "sleep 5007"] != []
    await box.text("pkill -f '^sleep 5007'")
    assert (await other).stdout == b"spared\n"


async def test_cancel_kills_a_running_call(box: "Box") -> None:
    """Exit code 130, with what it had printed; a call that does not run cannot be cancelled."""
    running = asyncio.create_task(box.sh("echo begun; sleep 5005", call_id="c"))
    await box.eventually(lambda: box.sandbox.cancel("c"))
    outcome = await running
    assert (outcome.exit_code, outcome.cancelled, outcome.timed_out) == (130, True, False)
    assert not await box.sandbox.cancel("c")
    assert not await box.sandbox.cancel("never seen")


async def test_a_daemon_that_holds_the_stream_does_not_hold_the_call(box: "Box") -> None:
    """The call returns when its own command ends; the daemon lives on and may go on printing."""
    began = time.monotonic()
    outcome = await box.sh("(while sleep 0.01; do echo tick; done) & echo started")
    assert time.monotonic() - began < 2
    assert outcome.stdout.startswith(b"started\n")
    assert any("echo tick" in command for command in await box.commands())


async def test_a_daemon_that_floods_its_dead_stream_stalls_nobody(box: "Box") -> None:
    """Its output goes nowhere, and the runner goes on answering."""
    await box.sh("yes & echo")
    for _ in range(20):
        assert await box.text("echo hi", timeout=5) == "hi"


async def test_long_output_keeps_head_and_tail(box: "Box") -> None:
    """40 % of 200,000 bytes from the start, 60 % from the end, and the number of bytes between."""
    outcome = await box.sh("seq 1000000")
    everything = "".join(f"{n}\n" for n in range(1, 1_000_001)).encode()
    head, tail = outcome.stdout[: outcome.stdout_head], outcome.stdout[outcome.stdout_head :]
    assert (len(head), len(tail)) == (80_000, 120_000)
    assert everything.startswith(head)
    assert everything.endswith(tail)
    assert outcome.stdout_dropped == len(everything) - 200_000
    assert outcome.stderr_dropped == 0


async def test_endless_output_needs_no_more_memory_than_a_little(box: "Box") -> None:
    """The runner's memory stays bounded by 100 MB of output, and by output without end until the deadline."""
    await box.sh("head -c 100000000 /dev/zero")
    outcome = await box.sh("yes", timeout=1)
    assert outcome.exit_code == 124
    assert outcome.stdout_dropped > 1_000_000
    resident = int((await box.text("cat /proc/1/statm")).split()[1]) * 4096
    assert resident < 40_000_000


async def test_calls_run_side_by_side(box: "Box") -> None:
    """A slow call delays no other."""
    slow = asyncio.create_task(box.sh("sleep 5006", call_id="slow"))
    results = await asyncio.gather(*(box.text(f"echo {n}") for n in range(50)))
    assert results == [str(n) for n in range(50)]
    assert not slow.done()
    assert await box.sandbox.cancel("slow")
    await slow
