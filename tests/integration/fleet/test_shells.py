"""Persistent shells and the terminal through a real fleet (S6, B11, 21)."""

import json
from typing import Any

import pytest

from toolfleet.config.contract import Status
from toolfleet.producer import Fleet, ToolResult, Trajectory

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def told(t: Trajectory, command: str, **options: Any) -> ToolResult:
    """Run a command in the persistent shell."""
    return await t.call("terminal_stateful", {"command": command}, **options)


async def until_shown(t: Trajectory, text: str) -> str:
    """Look at the screen until it shows something; returns the screen."""
    while text not in (screen := (await t.call("tmux", {"action": "capture"})).output):
        pass
    return screen


async def test_a_shell_keeps_its_state_for_one_trajectory(fleet: Fleet) -> None:
    """Under both names, and beside commands that have a shell of their own."""
    async with fleet.trajectory() as t, fleet.trajectory() as other:
        await told(t, "export A=1; cd /tmp; f() { echo fn; }")
        assert (await t.call("bash_stateful", {"command": "echo $A $PWD $(f)"})).output == "1 /tmp fn\n"
        assert (await t.terminal("echo $A")).output == "\n"
        assert (await told(other, "echo $A $PWD")).output == "/\n"


async def test_21_a_command_is_not_disturbed_by_how_its_end_is_told(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        for command, output, code in (
            ("cat <<EOF\na\nEOF", "a\n", 0),
            ("false # comment", "", 1),
            ("printf '%0200d' 0 | cat", "0" * 200, 0),
            ("echo a \\\n b", "a b\n", 0),
        ):
            result = await told(t, command)
            assert (result.output, result.exit_code) == (output, code)


async def test_s6_a_timeout_does_not_cost_the_session(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        await told(t, "A=kept")
        late = await told(t, "A=lost; echo begun; sleep 100; echo never", timeout=1)
        assert (late.status, late.exit_code, late.output) == (Status.TIMEOUT, 124, "begun\n")
        assert late.detail["state"] == "restored"
        assert (await told(t, "echo $A")).output == "kept\n"


async def test_the_model_is_told_what_became_of_its_shell(fleet: Fleet) -> None:
    async with fleet.trajectory() as t:
        await told(t, "A=kept")
        ended = await told(t, "echo bye; exit 3")
        assert ended.exit_code == 3
        assert ended.output == "bye\n[the command ended the shell; it goes on with the state from before this command]"
        pid = (await told(t, "echo $BASHPID")).output.strip()
        await t.terminal(f"kill -9 {pid}; while [ -e /proc/{pid} ]; do sleep 0.01; done")
        anew = await told(t, "echo $A")
        assert (
            anew.output == "\n[the shell had died, and this command ran in a new one: variables and directory are gone]"
        )
        assert anew.detail == {"shell": "default", "began": "anew", "state": "kept"}


async def test_b11_a_terminal_is_used_as_a_person_would(fleet: Fleet) -> None:
    """Keys by name, the real screen, a program that fills it, and no tmux in the image."""
    async with fleet.trajectory() as t:
        early = await t.call("tmux", {"action": "capture"})
        assert "start it first" in str(early.error)
        await t.call("tmux", {"action": "start", "pane_width": 60, "pane_height": 20})
        await t.call("tmux", {"action": "send_keys", "keys": ["stty size; python3 -q", "Enter"]})
        assert "20 60" in await until_shown(t, ">>>")
        await t.call("tmux", {"action": "send_keys", "keys": ["print('a' * 5)", "Enter", "C-d"]})
        assert "aaaaa" in await until_shown(t, "aaaaa\n")
        done = await t.call(
            "tmux", {"action": "send_keys", "keys": ["clear; sleep 1; echo do''ne", "Enter"], "block": True}
        )
        assert "\ndone\n" in f"\n{done.output}\n"
        assert "aaaaa" not in done.output
        await t.call("tmux", {"action": "send_keys", "keys": ["seq 50", "Enter"], "block": True})
        assert "\n3\n" not in (await t.call("tmux", {"action": "capture"})).output
        assert "\n3\n" in (await t.call("tmux", {"action": "capture", "capture_entire": True})).output
        assert (await t.call("tmux", {"action": "start"})).detail["columns"] == 60
        anew = await t.call("tmux", {"action": "start", "reset": True})
        assert (anew.detail["columns"], anew.detail["rows"]) == (120, 40)
        assert "50" not in anew.output
        assert (await t.call("tmux", {"action": "stop"})).output == "stopped"
        assert (await t.call("tmux", {"action": "capture"})).exit_code == 1


async def test_b11_a_stream_is_a_recording_in_parts(fleet: Fleet) -> None:
    """Whole lines of asciinema's format, each told once."""
    async with fleet.trajectory() as t:
        await t.call("tmux", {"action": "start"})
        await t.call("tmux", {"action": "send_keys", "keys": ["echo fi''rst", "Enter"], "block": True})
        header, *events = map(json.loads, (await t.call("tmux", {"action": "stream"})).output.splitlines())
        assert (header["version"], header["width"], header["height"]) == (2, 120, 40)
        assert "first" in "".join(text for _, _, text in events)
        await t.call("tmux", {"action": "send_keys", "keys": ["echo sec''ond", "Enter"], "block": True})
        more = await t.call("tmux", {"action": "stream"})
        texts = [json.loads(line)[2] for line in more.output.splitlines()]
        assert "second" in "".join(texts)
        assert "first" not in "".join(texts)
        again = await t.call("tmux", {"action": "stream", "reset": True, "max_bytes": 100})
        assert json.loads(again.output.splitlines()[0]) == header
        assert again.detail["offset"] == 100
