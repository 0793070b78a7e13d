"""N11: what an exit code means is told where it is easily misread, and nowhere else."""

import pytest

from toolfleet.workers.tools.exit_codes import meaning


@pytest.mark.parametrize(
    ("command", "exit_code", "says"),
    [
        ("grep x file", 1, "No lines matched"),
        ("cat f | sort | grep -v 'a;b|c'", 1, "No lines matched"),
        ("cd /src && LC_ALL=C /usr/bin/egrep x *", 1, "No lines matched"),
        ("echo a\nrg x", 1, "No lines matched"),
        ("diff a b > out.txt", 1, "differ"),
        ("[ -e x ]", 1, "false"),
        ("pytest -q", 5, "No tests were found"),
        ("curl -s http://x", 6, "name"),
        ("nosuch", 127, "not found"),
        ("anything 'at all", 137, "memory"),
        ("x", 139, "signal 11 (SIGSEGV)"),
        ("x", 124, "time limit"),
    ],
)
def test_it_says_what_is_behind_a_code(command: str, exit_code: int, says: str) -> None:
    assert says in (meaning(command, exit_code) or "")


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("grep x file", 0),
        ("grep x file", 2),
        ("grep x file; make", 1),
        ("grep x file | wc -l", 1),
        ("echo grep", 1),
        ("python3 -c 'grep'", 1),
        ("grep 'no end", 1),
        ("", 1),
        ("x", 255),
        ("x", 128),
    ],
)
def test_it_keeps_silent_where_there_is_nothing_to_say(command: str, exit_code: int) -> None:
    assert meaning(command, exit_code) is None
