"""H1 to H6: the predecessor's terminal, on VMs, with the predecessor's variables and no other configuration."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from standins.morph.process import StandIn

from toolfleet.producer.adapters.hecate import (
    HECATE,
    check_hecate_requirements,
    cleanup_vm,
    hecate_settings,
    terminal_hecate_tool,
)


@pytest.fixture
def terminal(cloud: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The cloud, with the predecessor's variables set; the fleet of this process ends with the test."""
    monkeypatch.setenv("HECATE_DEFAULT_SNAPSHOT_ID", "snapshot_base")
    monkeypatch.setenv("HECATE_VM_TTL_SECONDS", "600")
    yield cloud
    HECATE.close()


def ask(command: str, **arguments: Any) -> dict[str, Any]:
    said = json.loads(terminal_hecate_tool(command, **arguments))
    assert isinstance(said, dict)
    return said


def test_each_task_has_a_vm_of_its_own_until_it_is_cleaned_up(terminal: StandIn) -> None:
    assert check_hecate_requirements()
    assert hecate_settings().profile("hecate").morph.ttl == 600
    assert cleanup_vm("a") is None
    assert ask("echo a > /root/who; hostname", task_id="a")["exit_code"] == 0
    assert ask("cat /root/who", task_id="b")["exit_code"] == 1
    assert ask("cat /root/who", task_id="a") == {"output": "a", "exit_code": 0, "error": None}
    assert ask("sleep 60", timeout=1, task_id="a")["exit_code"] == 124
    assert len(terminal.instances()) == 2
    report = cleanup_vm("a")
    assert report is not None
    assert report.closed
    assert ask("cat /root/who", task_id="a")["exit_code"] == 1


def test_a_vm_that_is_gone_is_told_once(terminal: StandIn) -> None:
    """Defect 47: the predecessor went on with a dead handle."""
    name = ask("hostname", task_id="a")["output"]
    terminal.lose(name)
    lost = ask("true", task_id="a")
    assert (lost["exit_code"], lost["status"]) == (-1, "error")
    assert lost["error"].startswith("Failed to execute command: ")
    assert "environment_recreated" in lost
    assert ask("echo hi", task_id="a") == {"output": "hi", "exit_code": 0, "error": None}
