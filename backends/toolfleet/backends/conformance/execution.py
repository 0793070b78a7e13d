"""Commands: what comes back, and what ends them."""

import asyncio
from typing import Any

from toolfleet.backends.conformance.core import Rig, check


@check
async def a_command_returns_its_streams_and_its_exit_code(rig: Rig) -> None:
    """Streams are kept apart and binary; the exit code is the command's own."""
    box = await rig.box()
    outcome = await box.sh(r"printf 'a\0\377'; echo e >&2; exit 7")
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (b"a\0\xff", b"e\n", 7)
    assert (outcome.timed_out, outcome.cancelled, outcome.error) == (False, False, None)
    assert outcome.ran > 0
    assert (await box.sh("kill -SEGV $$")).exit_code == 128 + 11


@check
async def commands_run_in_bash_without_input(rig: Rig) -> None:
    """Its standard input is empty, and it is no login shell."""
    box = await rig.box()
    assert await box.text("x=([5]=y); echo ${x[5]}; cat") == "y"


@check
async def cwd_and_env_of_a_call_come_over_those_of_the_profile(rig: Rig) -> None:
    """Profile first, call second; a relative directory starts from the profile's."""
    box = await rig.box(workdir="/tmp", env={"A": "profile", "B": "profile"})
    assert await box.text("echo $A $B $PWD", env={"B": "call é"}) == "profile call é /tmp"
    await box.text("mkdir 'sub dir'")
    assert await box.text("pwd", cwd="sub dir") == "/tmp/sub dir"


_IMPOSSIBLE: tuple[tuple[dict[str, Any], str], ...] = (
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
)


@check
async def a_command_that_cannot_start_says_why(rig: Rig) -> None:
    """A sentence and exit code 126, and the runner goes on."""
    box = await rig.box()
    for args, words in _IMPOSSIBLE:
        outcome = await box.sandbox.run(box.request("exec", **args))
        assert outcome.exit_code == 126, args
        assert words in (outcome.error or ""), (words, outcome.error)
    assert await box.text("echo on") == "on"


@check
async def a_command_of_the_longest_possible_length_runs(rig: Rig) -> None:
    """The kernel's limit is the only one."""
    box = await rig.box()
    assert await box.text("echo ok #".ljust(131_071, "x")) == "ok"


@check
async def at_the_deadline_the_tree_is_killed_and_partial_output_kept(rig: Rig) -> None:
    """Exit code 124, everything printed until then, no process left."""
    box = await rig.box()
    line = "echo before; sleep 5001.5 & setsid sleep 5001.5 & (sleep 5001.5 &) ; wait"
    outcome = await box.sh(line, timeout=0.5)
    assert (outcome.exit_code, outcome.timed_out, outcome.stdout) == (124, True, b"before\n")
    assert await box.alive("sleep 5001.5") == []


@check
async def a_command_may_clean_up_on_term(rig: Rig) -> None:
    """TERM comes first, KILL only after a grace period."""
    box = await rig.box()
    outcome = await box.sh("trap 'echo bye; exit 0' TERM; sleep 5004 & wait", timeout=0.5)
    assert (outcome.exit_code, outcome.stdout) == (124, b"bye\n")


_STUBBORN = (
    "trap '' TERM INT HUP; while :; do sleep 0.05; done; : mark-6001",
    "setsid bash -c 'trap \"\" TERM; sleep 6001.5' & wait; : mark-6001",
    "(setsid bash -c 'sleep 6001.5 & disown; exec sleep 6001.5' &) ; sleep 6001.5; : mark-6001",
    "env -i setsid bash -c '(setsid sleep 6001.5 &)'; sleep 6001.5; : mark-6001",
    "kill -STOP $$; sleep 6001.5; : mark-6001",
)


@check
async def nothing_escapes_the_deadline(rig: Rig) -> None:
    """Whoever ignores TERM, leaves the session, forks twice, empties its environment or stops itself."""
    box = await rig.box()
    for command in _STUBBORN:
        outcome = await box.sh(command, timeout=0.3)
        assert outcome.exit_code == 124, command
        assert await box.alive("mark-6001") + await box.alive("sleep 6001.5") == [], command


@check
async def a_kill_finds_the_tree_beside_other_calls_and_spares_them(rig: Rig) -> None:
    """By descent, by session, or by mark; orphans without a mark count only where no other call could own them."""
    box = await rig.box()
    other = asyncio.create_task(box.sh("setsid sleep 5007.5; echo spared", 60, "other"))
    await box.eventually(lambda: box.runs("other"))
    for command in (
        "env -i setsid sleep 6008.5 & wait",
        "(env -i sleep 6008.5 &); sleep 6008.5",
        "(setsid sleep 6008.5 &); sleep 6008.5",
    ):
        assert (await box.sh(command, timeout=0.3)).exit_code == 124
        assert await box.alive("sleep 6008.5") == [], command
    assert await box.alive("sleep 5007.5") != []
    await box.text("pkill -f '^sleep 5007'")
    assert (await other).stdout == b"spared\n"


@check
async def cancel_kills_a_running_call(rig: Rig) -> None:
    """Exit code 130, with what it had printed; a call that does not run cannot be cancelled."""
    box = await rig.box()
    running = asyncio.create_task(box.sh("echo begun; touch /tmp/begun; sleep 5005", call_id="c"))
    await box.text("until [ -e /tmp/begun ]; do sleep 0.01; done")
    assert await box.sandbox.cancel("c")
    outcome = await running
    assert (outcome.exit_code, outcome.cancelled, outcome.timed_out) == (130, True, False)
    assert outcome.stdout == b"begun\n"
    assert not await box.sandbox.cancel("c")
    assert not await box.sandbox.cancel("never seen")


@check
async def a_daemon_that_holds_the_stream_does_not_hold_the_call(rig: Rig) -> None:
    """The call returns when its own command ends; the daemon lives on, may print, and stalls nobody."""
    box = await rig.box()
    outcome = await box.sh("(while sleep 0.01; do echo tick; done; : mark-7007) & echo started", timeout=60)
    assert (outcome.timed_out, outcome.stdout[:8]) == (False, b"started\n")
    assert await box.alive("mark-7007") != []
    await box.sh("yes & echo")
    for _ in range(20):
        assert await box.text("echo hi") == "hi"


@check
async def long_output_keeps_head_and_tail(rig: Rig) -> None:
    """40 % of 200,000 bytes from the start, 60 % from the end, and the number of bytes between."""
    box = await rig.box()
    outcome = await box.sh("seq 1000000")
    everything = "".join(f"{n}\n" for n in range(1, 1_000_001)).encode()
    head, tail = outcome.stdout[: outcome.stdout_head], outcome.stdout[outcome.stdout_head :]
    assert (len(head), len(tail)) == (80_000, 120_000)
    assert everything.startswith(head)
    assert everything.endswith(tail)
    assert outcome.stdout_dropped == len(everything) - 200_000
    assert outcome.stderr_dropped == 0


@check
async def endless_output_needs_no_more_memory_than_a_little(rig: Rig) -> None:
    """The runner's memory stays bounded by 100 MB of output, and by output without end until the deadline."""
    box = await rig.box()
    await box.sh("head -c 100000000 /dev/zero", timeout=60)
    outcome = await box.sh("yes", timeout=1)
    assert outcome.exit_code == 124
    assert outcome.stdout_dropped > 1_000_000
    resident = int((await box.text("cat /proc/$PPID/statm")).split()[1]) * 4096
    assert resident < 40_000_000


@check
async def calls_run_side_by_side(rig: Rig) -> None:
    """A slow call delays no other."""
    box = await rig.box()
    slow = asyncio.create_task(box.sh("sleep 5006", 60, "slow"))
    results = await asyncio.gather(*(box.text(f"echo {n}") for n in range(50)))
    assert results == [str(n) for n in range(50)]
    assert not slow.done()
    assert await box.sandbox.cancel("slow")
    await slow
