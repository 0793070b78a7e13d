"""Written for the terminal of a VM for each task: a model's calls come from threads, and a reaper cleans up."""

import json
from concurrent.futures import ThreadPoolExecutor

from tools.terminal_hecate import check_hecate_requirements, cleanup_vm, terminal_hecate_tool


def rollout(task_id: str) -> str:
    """Leave a file, fail, run out of time, and find the file."""
    wrote = json.loads(terminal_hecate_tool(f"echo {task_id} > /tmp/who; echo ' wrote '", task_id=task_id))
    failed = json.loads(terminal_hecate_tool("echo out; echo err >&2; exit 2", False, 30, task_id))
    slow = json.loads(terminal_hecate_tool("echo begun; sleep 60", timeout=1, task_id=task_id))
    found = json.loads(terminal_hecate_tool("cat /tmp/who", task_id=task_id))
    cleanup_vm(task_id)
    gone = json.loads(terminal_hecate_tool("ls /tmp", task_id=task_id))
    return f"{wrote} {failed} {slow['exit_code']} {slow['output']!r} {found['output']} {gone['output']!r}"


if __name__ == "__main__":
    print(check_hecate_requirements())
    with ThreadPoolExecutor(2) as threads:
        for line in threads.map(rollout, ["a", "b"]):
            print(line)
    cleanup_vm("a")
    print(json.loads(terminal_hecate_tool("echo default task"))["output"])
