"""B12: an environment that runs commands in the sandbox of a task."""

from toolfleet.producer.adapters.environment import TaskEnvironment
from toolfleet.producer.adapters.rollouts import Rollouts


def test_it_runs_commands_where_they_shall_run(rollouts: Rollouts) -> None:
    env = TaskEnvironment("a", rollouts)
    assert env.execute("echo $PWD; exit 3", "/tmp") == {"output": "/tmp\n", "returncode": 3}
    assert env.execute("echo x; sleep 60", timeout=1) == {
        "output": "x\n\nCommand timed out after 1s",
        "returncode": 124,
    }


def test_input_reaches_the_command_and_leaves_nothing_behind(rollouts: Rollouts) -> None:
    env = TaskEnvironment("a", rollouts)
    given = "line one\n'quoted' $HOME\nlast without end"
    assert env.execute("cat", stdin_data=given) == {"output": given, "returncode": 0}
    assert env.execute("cat <<'END'\nfrom the script\nEND\ncat", stdin_data="rest")["output"] == "from the script\nrest"
    assert env.execute("cat; ls -A /tmp", stdin_data="")["output"] == ""


def test_a_sandbox_that_cannot_be_had_is_told(rollouts: Rollouts) -> None:
    rollouts.configure("a", profile="nobody-serves-it")
    said = TaskEnvironment("a", rollouts).execute("true")
    assert said["returncode"] == -1
    assert "nobody-serves-it" in said["output"]


def test_it_ends_once(rollouts: Rollouts) -> None:
    env = TaskEnvironment("a", rollouts)
    env.execute("touch /tmp/mine")
    assert env.cleanup().trajectory_id
    env.stop()
    assert env.execute("ls /tmp") == {"output": "", "returncode": 0}
