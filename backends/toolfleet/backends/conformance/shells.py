"""Persistent shells: what lasts from one command to the next, and what ends one without ending the shell."""

import asyncio
from typing import Any

from toolfleet.backends.base import Outcome
from toolfleet.backends.conformance.box import Box
from toolfleet.backends.conformance.core import Rig, check


async def told(box: Box, command: str, timeout: float = 20.0, **args: Any) -> Outcome:
    """Run a command in a persistent shell."""
    return await box.sandbox.run(box.request("shell", timeout, command=command, **args))


async def says(box: Box, command: str, **args: Any) -> str:
    """What a command in a persistent shell prints; the shell must be kept."""
    outcome = await told(box, command, **args)
    assert (outcome.error, outcome.detail["state"]) == (None, "kept"), (command, outcome)
    return outcome.stdout.decode().strip()


@check
async def a_shell_keeps_what_commands_leave_in_it(rig: Rig) -> None:
    """Variables, functions, options, directory, jobs, open files and the last exit code; streams are apart."""
    box = await rig.box()
    first = await told(box, "cd /usr; export A=1; b=2; declare -A m=([k]=v); f() { echo fn; }; set -f; umask 077")
    assert first.detail == {"shell": "default", "began": "new", "state": "kept"}
    assert await says(box, 'echo $PWD $A $b ${m[k]} $(f) * $(umask); bash -c "echo \\$A"') == "/usr 1 2 v fn * 0077\n1"
    await says(box, "exec 3>/tmp/three; sleep 5201 & shopt -s extglob; (exit 5)")
    assert await says(box, "echo $?; echo x >&3; cat /tmp/three; jobs -r | wc -l; kill $!; wait; echo done") == (
        "5\nx\n1\ndone"
    )
    outcome = await told(box, "echo out; echo err >&2; cat; exit_code() { return 9; }; exit_code")
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (b"out\n", b"err\n", 9)
    assert (await box.sh("echo $A")).stdout == b"\n"


@check
async def shells_have_names(rig: Rig) -> None:
    """Each its own state; commands of different ones run side by side, those of one do not."""
    box = await rig.box()
    await says(box, "A=default")
    await says(box, "A=other", name="other")
    assert await says(box, "echo $A") == "default"
    slow = asyncio.create_task(
        told(box, "touch /tmp/begun; until [ -e /tmp/go ]; do sleep 0.01; done; echo $A", name="other")
    )
    await box.text("until [ -e /tmp/begun ]; do sleep 0.01; done")
    assert await says(box, "echo $A") == "default"
    busy = await told(box, "echo no", name="other")
    assert (busy.exit_code, "busy" in (busy.error or "")) == (126, True)
    await box.text("touch /tmp/go")
    assert (await slow).stdout == b"other\n"
    for n in range(6):
        await says(box, "true", name=f"shell {n}")
    more = await told(box, "true", name="one too many")
    assert (more.exit_code, "8 shells" in (more.error or "")) == (126, True)


#: Commands that try a shell's patience, with what they print and their exit code.
_TRICKY = (
    ("cat <<EOF\none\n\ntwo\nEOF", b"one\n\ntwo\n", 0),
    ("cat <<'EOF'\nended 3\nbegun 1\nEOF", b"ended 3\nbegun 1\n", 0),
    ("echo a # a comment", b"a\n", 0),
    ("echo b \\", b"b \\\n", 0),
    ("echo 'no end", b"", 2),
    ('echo "$(', b"", 2),
    ("if true; then", b"", 2),
    (")", b"", 2),
    ("", b"", 0),
    ("PS1='$ '; PS2='> '; PS4=; PROMPT_COMMAND='echo prompt'; echo c", b"c\n", 0),
    ("exec 0<&- 1>&- 2>&-; echo lost", b"", 1),
    ("for fd in /proc/$$/fd/*; do :; done; echo d", b"d\n", 0),
    ("break; echo no", b"", 0),
    ("while :; do break; done; echo e", b"e\n", 0),
    ("python3 -i 2>/dev/null || perl -e 1; cat; bash; sh -s", b"", 0),
    ("IFS=x; read a b; echo f; unset IFS", b"f\n", 0),
    ("set -u; echo ${g-g}; set +u", b"g\n", 0),
    ("trap 'echo trapped' USR1; kill -USR1 $BASHPID; trap - USR1", b"trapped\n", 0),
    ("echo " + "h" * 300_000 + " | wc -c", b"300001\n", 0),
)


@check
async def nothing_a_command_says_is_taken_for_its_end(rig: Rig) -> None:
    """Open quotes and blocks, documents, comments, prompts, interpreters without input, closed descriptors."""
    box = await rig.box()
    await says(box, "kept=yes")
    for command, printed, code in _TRICKY:
        outcome = await told(box, command)
        assert (outcome.stdout, outcome.exit_code) == (printed, code), (command[:100], outcome)
        assert await says(box, "echo $kept") == "yes", command[:100]


#: Commands that take the shell along, with what they print and their exit code.
_FATAL = (
    ("kept=no; cd /; echo bye; exit 3", b"bye\n", 3),
    ("kept=no; exec echo bye", b"bye\n", 0),
    ("kept=no; set -e; false; echo no", b"", 1),
    ("kept=no; kill -9 $BASHPID", b"", 137),
    ("kept=no; break 9", b"", 0),
    ('kept=no; for n in {3..255}; do eval "exec $n>&-"; done; echo bye; (exit 8)', b"bye\n", 8),
    ("kept=no; trap 'echo bye > /tmp/bye' EXIT; exit 4", b"", 4),
    ("kept=no; exec 2>/dev/null; (sleep 0.05; echo late) & exec sh -c 'wait; sleep 0.2; exit 6'", b"late\n", 6),
)


@check
async def a_command_that_ends_the_shell_leaves_it_as_it_was_before(rig: Rig) -> None:
    """``exit``, ``exec``, an error under ``set -e``, a signal: the exit code is told, and the state is the former."""
    box = await rig.box()
    await says(box, "kept=yes; cd /usr; f() { echo fn; }; readonly r=1; exec 3</dev/null")
    for command, printed, code in _FATAL:
        outcome = await told(box, command)
        assert (outcome.stdout, outcome.exit_code) == (printed, code), (command, outcome)
        assert outcome.detail["state"] == "restored", command
        assert await says(box, "echo $kept $PWD $(f) $r; [ -e /proc/self/fd/3 ] && echo 3") == "yes /usr fn 1\n3"
    await says(box, "set -e")
    for _ in range(2):
        assert (await told(box, "false")).detail["state"] == "restored"
    assert "e" in await says(box, "echo $-")


@check
async def a_deadline_ends_a_command_of_a_shell_and_not_the_shell(rig: Rig) -> None:
    """Nor what earlier commands have left running; all of the command's own tree is gone, and nothing of it goes on."""
    box = await rig.box()
    await says(box, "kept=yes; sleep 5202.5 & (while sleep 5203.5; do :; done) & f() { echo fn; }")
    for command in (
        "kept=no; echo begun; sleep 6202.5; touch /tmp/after",
        "kept=no; echo begun; while :; do :; done",
        "kept=no; echo begun; trap '' TERM INT; setsid sleep 6202.5 & (sleep 6202.5 &) ; wait; touch /tmp/after",
        "kept=no; echo begun; exec sleep 6202.5",
        "kept=no; echo begun; kill -STOP $BASHPID",
    ):
        outcome = await told(box, command, timeout=0.5)
        assert (outcome.exit_code, outcome.timed_out, outcome.stdout) == (124, True, b"begun\n"), (command, outcome)
        assert outcome.detail["state"] == "restored"
        assert await box.alive("sleep 6202.5") == [], command
        assert await says(box, "echo $kept $(f); ls /tmp/after 2>/dev/null; true") == "yes fn", command
    assert await box.alive("sleep 5202.5") != []
    assert await box.alive("sleep 5203.5") != []


@check
async def a_cancelled_command_of_a_shell_leaves_it_as_it_was(rig: Rig) -> None:
    """Exit code 130."""
    box = await rig.box()
    await says(box, "kept=yes")
    running = asyncio.create_task(
        box.sandbox.run(box.request("shell", command="kept=no; touch /tmp/begun; sleep 5204", call_id="c"))
    )
    await box.text("until [ -e /tmp/begun ]; do sleep 0.01; done")
    assert await box.sandbox.cancel("c")
    outcome = await running
    assert (outcome.exit_code, outcome.cancelled) == (130, True)
    assert await says(box, "echo $kept") == "yes"


@check
async def a_shell_that_was_killed_is_begun_anew_and_says_so(rig: Rig) -> None:
    """Nobody can give back what was in it. Who forges words on its descriptors harms this shell alone."""
    box = await rig.box()
    pid = await says(box, "kept=no; echo $BASHPID")
    await box.text(f"kill -9 {pid}")

    async def gone() -> bool:
        return pid not in (await box.text("ps -eo pid=")).split()

    await box.eventually(gone)
    outcome = await told(box, "echo ${kept-empty}")
    assert (outcome.stdout, outcome.detail["began"]) == (b"empty\n", "anew")
    await told(box, "for n in 1 2 3; do for fd in /proc/$BASHPID/fd/*; do echo ended 77 > $fd; done; done", timeout=2)
    await told(box, "for fd in /proc/$BASHPID/fd/*; do echo begun 1 > $fd; done; exit 1", timeout=2)
    assert await says(box, "echo on", name="another") == "on"
    assert await box.text("echo on") == "on"
